"""A trained generator, read from a checkpoint or an exported file, ready for restoring."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from drsn_jax.config.build import make_generator
from drsn_jax.config.values import CHOICES
from drsn_jax.models.generator import Generator
from drsn_jax.models.inference import apply_in_corner
from drsn_jax.ops.backend import forms_for
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath, check_bucket
from drsn_jax.weights.onnx_files import SUFFIX, read_onnx
from drsn_jax.weights.saved import read_saved


class Model(NamedTuple):
    """A generator with its parameters. `predict_fn`, jitted, maps [b h w 3] in [-1, 1] to the same; sizes are multiples of `stride`.

    `corner_fn` does the same for images in the top left corner of such arrays. It also takes their height and width in strides. It is None
    if the model only has a program for whole images.
    """

    predict_fn: Callable[[Any], Any]
    stride: int
    config: dict[str, Any]
    info: dict[str, Any]  # for reports: path, step, computing dtype, parameters, sha256
    size: tuple[int, int] | None = None  # height and width of the largest image that `predict_fn` takes, None for any
    corner_fn: Callable[[Any, Any], Any] | None = None
    apply_fn: Callable[[Any, Any], Any] | None = None  # (variables, images) -> the result of `predict_fn`, pure; None for exported files
    variables: Any = None

    def fit_tile(self, tile: int | None) -> int | None:
        """Return the `tile` in pixels, or a smaller one if `predict_fn` has a maximum size."""
        if self.size is None:
            return tile
        largest = min(self.size) // self.stride * self.stride
        return largest if tile is None else min(tile, largest)


class StoredGenerator(NamedTuple):
    """A stored generator: the network and its variables on the host, with the other fields of `Model`."""

    generator: Generator
    variables: dict[str, Any]
    config: dict[str, Any]
    info: dict[str, Any]


def load_model(path: AnyPath, *, device: Any = None, dtype: str | None = None) -> Model:
    """Load a generator as `read_generator` does, or a file of `drsn-jax export`, on a platform that it was exported for.

    It runs on `device`, or on jax's default device. It computes in `dtype`, float32 (the default) or bfloat16, independent of the precision
    of its training. An exported file always computes in its own precision. Raises InputError if there is no model, or if it is damaged or
    does not fit the configuration stored with it. Raises it also if a file computes in another precision than `dtype`.
    """
    check_bucket(path)
    if path.is_file():
        return _check_dtype(path, _load_onnx(path, device) if path.suffix == SUFFIX else _load_exported(path, device), dtype)
    generator, variables, config, info = read_generator(path, dtype=dtype or "float32")
    variables = jax.device_put(variables, device)  # once, not with every tile; the generator runs where they are
    network = generator.clone(forms=forms_for(device.platform if device else jax.default_backend()))
    predict_fn, corner_fn = (partial(jax.jit(function), variables) for function in (network.apply, partial(apply_in_corner, network)))
    functions = {"corner_fn": corner_fn, "apply_fn": network.apply, "variables": variables}
    return Model(predict_fn, generator.stride, config, info, **functions)


def _check_dtype(path: AnyPath, model: Model, dtype: str | None) -> Model:
    own = model.info["dtype"]
    if dtype not in (None, own):
        raise InputError(f"{path} computes in {own}, as it was exported; omit --dtype, or export the model with --dtype={dtype}.")
    return model


def read_generator(path: AnyPath, *, dtype: str = "float32") -> StoredGenerator:
    """Read the generator of a workdir (its best checkpoint), a checkpoint or a compact model.

    Its parameters are their running mean, if there is one.

    It computes in `dtype`. Raises InputError as `load_model`.
    """
    if dtype not in CHOICES["dtype"]:
        raise InputError(f"dtype={dtype!r} is no precision to compute in; use one of {', '.join(CHOICES['dtype'])}.")
    checkpoint, fields, config, step = read_saved(path, ("ema_params", "generator_params", "generator_stats"))
    params = fields["ema_params"] or fields["generator_params"]
    try:
        generator = make_generator({**config, "dtype": dtype})
        expected = jax.eval_shape(
            generator.init, jax.random.key(0), jax.ShapeDtypeStruct((1, generator.stride, generator.stride, 3), "float32")
        )
        variables = {"params": params, "batch_stats": fields["generator_stats"]}
        fits = all(jax.tree.map(np.shape, variables[name]) == jax.tree.map(np.shape, expected.get(name, {})) for name in variables)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The configuration stored in {checkpoint} is not that of a generator ({error}); give another checkpoint."
        ) from error
    if not fits:
        raise InputError(f"The parameters in {checkpoint} do not fit its own configuration; give another checkpoint.")
    info = {
        "path": str(path),
        "step": step,
        "dtype": dtype,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "sha256": hash_arrays(variables),
    }
    return StoredGenerator(generator, variables, config, info)


def _load_onnx(path: AnyPath, device: Any) -> Model:
    predict_fn, size, description = read_onnx(path, platform=device.platform if device else "cpu")
    info = {**description["info"], "path": str(path), "dtype": "float32", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return Model(predict_fn, description["stride"], description["config"], info, size)


def _load_exported(path: AnyPath, device: Any) -> Model:
    from drsn_jax.weights.exported import read_exported  # needs flatbuffers and jax.export, so it is imported late

    apply_fn, variables, description = read_exported(path, device=device)
    config, stride = description["config"], description["stride"]
    try:
        known = make_generator(config).stride == stride
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise InputError(f"The configuration in {path} is unknown to this drsn-jax; export the model again.")
    variables = jax.device_put(variables, device)
    # Older files do not state it: their programs compute in the dtype of the training.
    dtype = description.get("dtype", config.get("dtype", "float32"))
    info = {**description["info"], "path": str(path), "dtype": dtype, "sha256": hash_arrays(variables)}
    return Model(lambda image: apply_fn(variables, image), stride, config, info)


def hash_arrays(tree: Any) -> str:
    """Return a SHA-256 over the names, shapes and bytes of all arrays of a tree."""
    digest = hashlib.sha256()
    for name, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(name)} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
