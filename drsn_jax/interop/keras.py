"""Weights between Keras' layout and ours, layer by layer, with every shape checked (SPEC section 1).

Both sides use NHWC images, kernels [h w in out] and the same statistics, so arrays are copied unchanged. Only the layers must be
matched. Keras' files number them: the n-th convolution, norm or dense layer there is the n-th here.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.system.errors import InputError
from drsn_jax.weights.keras_files import StoredLayer

Variables = dict[str, Any]  # params and batch_stats
Kind = str
_ADVICE = "give the configuration that it was trained with (--config=NAME --config.KEY=VALUE; `drsn-jax info --config=NAME` lists the keys)"
_LEAVES = {
    "convolution": (("params", "kernel"), ("params", "bias")),
    "dense layer": (("params", "kernel"), ("params", "bias")),
    "batch norm": (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var")),
    "layer norm": (("params", "scale"), ("params", "bias")),
}


class Layer(NamedTuple):
    """One layer with weights of our network: its path in the tree, its kind, and the shapes of its arrays in Keras' order."""

    path: tuple[str, ...]
    kind: Kind
    shapes: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """Its name in the models of `interop.keras_models`, such as block1_conv1 for block1/conv1/conv."""
        return "_".join(part for part in self.path if part != "conv")

    @property
    def leaves(self) -> tuple[tuple[str, str], ...]:
        """Collection and leaf of each array in Keras' order."""
        return _LEAVES[self.kind]


def keras_options(module: Generator | Critic) -> dict[str, Any]:
    """Return the keywords of `keras_models.make_generator` or `make_critic` for the same network; the critic's size is given there.

    Raises InputError for networks without a Keras form.
    """
    if isinstance(module, Critic):
        fixed, keys = {"head": "dense"}, ("widths", "norm", "critic_output", "dense_features")
    else:
        fixed = {"trunk": "quarter", "upsampling": "nearest", "strided_padding": "keras", "unshuffle": 1}
        keys = ("widths", "num_blocks", "block_order", "shrinkage", "convs_per_block", "norm", "threshold_norm", "dropout", "output")
    if wrong := [(key, getattr(module, key), value) for key, value in fixed.items() if getattr(module, key) != value]:
        key, given, value = wrong[0]
        key = "critic" if key == "head" else key
        raise InputError(f"{key}={given} has no Keras form here; use --config.{key}={value}, or --config=keras_reference.")
    for key in [key for key in keys if key.endswith("norm")]:
        if getattr(module, key) not in ("batch", "layer", "none"):
            raise InputError(f"{key}={getattr(module, key)} has no Keras form here; use batch, layer or none.")
    return {key: getattr(module, key) for key in keys}


def list_layers(module: Generator | Critic, *, image_size: int) -> list[Layer]:
    """List the layers with weights of our network in execution order. `image_size` is the size that the dense critic is built for."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    shapes = {name: shapes[name] for name in ("params", "batch_stats") if name in shapes}
    leaves = {_names(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    layers = []
    for path in sorted({names[1:-1] for names in leaves}, key=_position):
        kernel = leaves.get(("params", *path, "kernel"))
        if kernel:
            kind = "convolution" if len(kernel) == 4 else "dense layer"
        else:
            kind = "batch norm" if ("batch_stats", *path, "mean") in leaves else "layer norm"
        wanted = [(collection, *path, leaf) for collection, leaf in _LEAVES[kind]]
        layers.append(Layer(path, kind, tuple(leaves[name] for name in wanted if name in leaves)))
    return layers


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(entry.key for entry in path)


def _position(path: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the sort key of a layer among those of its kind, in execution order."""
    stages = ("stem", "down", "block", "up", "head", "conv", "norm", "dense")

    def place(part: str) -> tuple[int, int]:
        word, number = re.fullmatch(r"([a-z]+)(\d*).*", part).groups()  # pyright: ignore[reportOptionalMemberAccess]
        return (stages.index(word) if word in stages else len(stages), int(number or 0))

    return tuple(place(part) for part in path)


def to_variables(layers: Sequence[StoredLayer], wanted: Sequence[Layer], *, source: str) -> Variables:
    """Convert a Keras file's layers to our variables, float32. Raises InputError naming the first missing, surplus or misfit layer."""
    pairs: list[tuple[Layer, StoredLayer]] = []
    for kind in dict.fromkeys((*_LEAVES, *map(_kind, layers))):
        ours = [layer for layer in wanted if layer.kind == kind]
        theirs = [layer for layer in layers if _kind(layer) == kind]
        if len(ours) != len(theirs):
            last = f", the last {theirs[-1].name}" if theirs else ""
            raise InputError(f"{source} has {len(theirs)} layers of kind {kind}{last}; the configuration has {len(ours)}: {_ADVICE}.")
        pairs += zip(ours, theirs, strict=True)
    variables: Variables = {}
    for mine, stored in pairs:
        _check_arrays(mine, stored, source)
        for (collection, leaf), array in zip(mine.leaves, stored.arrays, strict=True):
            _put(variables, (collection, *mine.path, leaf), array)
    return variables


def to_arrays(variables: Mapping[str, Any], wanted: Sequence[Layer], *, source: str) -> dict[str, list[np.ndarray]]:
    """Convert our variables to Keras' weights by layer name. Raises InputError if they belong to another architecture."""
    weights = {}
    for layer in wanted:
        try:
            arrays = [_get(variables, (collection, *layer.path, leaf)) for collection, leaf in layer.leaves]
        except (KeyError, TypeError) as error:
            raise InputError(f"{source} has no layer {'/'.join(layer.path)}, which its configuration describes; give another.") from error
        _check_arrays(layer, StoredLayer(layer.name, arrays), source)
        weights[layer.name] = arrays
    return weights


def make_model(module: Generator | Critic, variables: Mapping[str, Any], *, image_size: int, source: str = "The model") -> Any:
    """Make the Keras model of our network with its weights; the critic is built for images of image_size x image_size.

    Raises InputError if keras is missing or the network has no Keras form.
    """
    options = keras_options(module)
    weights = to_arrays(variables, list_layers(module, image_size=image_size), source=source)
    try:
        from drsn_jax.interop import keras_models
    except ImportError as error:
        raise InputError(f"Keras cannot be imported ({error}): pip install 'drsn-jax[keras]'.") from error
    if isinstance(module, Critic):
        model = keras_models.make_critic(**options, image_size=image_size)
    else:
        model = keras_models.make_generator(**options)
    for name, arrays in weights.items():
        model.get_layer(name).set_weights(arrays)
    return model


def from_model(model: Any, module: Generator | Critic, *, image_size: int) -> Variables:
    """Convert a Keras model of `interop.keras_models` to our variables."""
    wanted = list_layers(module, image_size=image_size)
    layers = [StoredLayer(layer.name, model.get_layer(layer.name).get_weights()) for layer in wanted]
    return to_variables(layers, wanted, source=f"The Keras model {model.name}")


def encode_keras(model: Any, suffix: str) -> bytes:
    """Encode a Keras model as the content of a .weights.h5 or .keras file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{suffix}"
        model.save(path) if suffix == ".keras" else model.save_weights(path)
        return path.read_bytes()


def _kind(layer: StoredLayer) -> Kind:
    ranks = tuple(array.ndim for array in layer.arrays)
    kinds = {(4, 1): "convolution", (2, 1): "dense layer", (1, 1, 1, 1): "batch norm", (1, 1): "layer norm"}
    return kinds.get(ranks, "a kind that no network here has")


def _check_arrays(mine: Layer, stored: StoredLayer, source: str) -> None:
    names = stored.name if stored.name == mine.name else f"{stored.name} (our {mine.name})"
    for (_, leaf), array, wanted in zip(mine.leaves, stored.arrays, mine.shapes, strict=True):
        if array.shape != wanted:
            given, right = ("x".join(map(str, shape)) for shape in (array.shape, wanted))
            raise InputError(f"{source}: {mine.kind} {names} has a {leaf} of {given}, the configuration needs {right}: {_ADVICE}.")
        if leaf == "var" and (array < 0).any():
            raise InputError(f"{source}: {mine.kind} {names} has a variance below 0; give weights saved by a training.")


def _put(tree: dict[str, Any], path: tuple[str, ...], array: np.ndarray) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = np.asarray(array, np.float32)


def _get(tree: Any, path: tuple[str, ...]) -> np.ndarray:
    for part in path:
        tree = tree[part]
    return np.asarray(tree, np.float32)
