"""Export of a generator as StableHLO, for any image size and several platforms, and the check of its accuracy."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from drsn_jax import __version__
from drsn_jax.models.generator import Generator
from drsn_jax.ops.backend import forms_for
from drsn_jax.system.errors import InputError
from drsn_jax.weights.exported import import_export, pack_exported, read_exported

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SMALLEST = 4  # strides per side: the minimum for reflect padding at the coarsest scale, and the size that restoration pads to
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.1}  # by computing dtype; images are in [-1, 1]
Images = Float[np.ndarray, "b h w 3"]


def export_stablehlo(
    *, generator: Generator, variables: Mapping[str, Any], platforms: Sequence[str], config: Mapping[str, Any], info: Mapping[str, Any]
) -> bytes:
    """Export a generator (format: `weights.exported`) for any number of images of any size in multiples of `stride`, at least 4 strides.

    One file holds the program for all `platforms`, each in its own forms (`ops.backend`).
    Raises InputError for unknown platforms, and if the program cannot be lowered for one.
    """
    export = import_export()
    check_platforms(platforms)
    kept = {name: collection for name, collection in variables.items() if jax.tree.leaves(collection)}
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), kept)
    b, h, w = export.symbolic_shape("b, h, w", constraints=[f"h >= {SMALLEST}", f"w >= {SMALLEST}"])
    images = jax.ShapeDtypeStruct((b, generator.stride * h, generator.stride * w, 3), jnp.float32)
    apply_fn = jax.jit(partial(apply_on_platform, generator, platforms=tuple(platforms)))
    try:
        with without_source_paths():
            program = export.export(apply_fn, platforms=tuple(platforms))(arguments, images).serialize()
    except NotImplementedError as error:  # jax's error for an operation without lowering
        raise InputError(f"The generator cannot be exported for {', '.join(platforms)} ({error}); omit the platform.") from error
    program_of = {"platforms": list(platforms), "stride": generator.stride, "dtype": str(jnp.dtype(generator.dtype))}
    description = {"drsn_jax": __version__, "jax": jax.__version__, **program_of, "config": dict(config), "info": dict(info)}
    return pack_exported(program=bytes(program), variables=kept, description=description)


def apply_on_platform(
    generator: Generator, variables: Any, images: Float[Array, "b h w 3"], *, platforms: Sequence[str]
) -> Float[Array, "b h w 3"]:
    """Apply the generator in the forms for the platform that the program is compiled for (`ops.backend`), not for this one."""
    others = [platform for platform in platforms if platform != "cpu"]
    branches = {"cpu": partial(_apply, generator, "cpu")} if "cpu" in platforms else {}
    if others:
        branches["default"] = partial(_apply, generator, others[0])  # these platforms share their forms
    return jax.lax.platform_dependent(variables, images, **branches)


def _apply(generator: Generator, platform: str, variables: Any, images: jax.Array) -> jax.Array:
    # A CPU multiplies float32 as it is. For others JAX's default is TF32 or bfloat16, which is for --dtype to choose.
    precision = "highest" if platform != "cpu" and generator.dtype == jnp.float32 else None
    with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
        return generator.clone(forms=forms_for(platform)).apply(variables, images)  # pyright: ignore[reportReturnType]


@contextlib.contextmanager
def without_source_paths() -> Iterator[None]:
    """Lower without source locations: the file must not contain this machine's paths, and must be reproducible byte for byte."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def check_platforms(platforms: Sequence[str]) -> None:
    """Raise InputError unless there is at least one platform and each is known and given once."""
    if not platforms or len(set(platforms)) < len(platforms) or not set(platforms) <= set(PLATFORMS):
        raise InputError(
            f"--platforms={','.join(platforms)}: give one or more of {', '.join(PLATFORMS)}, each once (--platforms=cpu,cuda)."
        )


def check_size(size: tuple[int, int], *, stride: int) -> None:
    """Raise InputError for a height and width in pixels that a fixed-size program does not support."""
    smallest = SMALLEST * stride
    if any(side % stride or side < smallest for side in size):
        raise InputError(f"--size={size[0]}x{size[1]} does not fit: use multiples of {stride} from {smallest} up (--size=256x256).")


def load_exported_fn(content: bytes) -> Callable[[Images], Images]:
    """Load a file of `export_stablehlo` as a function. Raises InputError if it was not exported for this platform."""
    apply_fn, variables, _ = read_exported(io.BytesIO(content))
    return lambda images: np.asarray(apply_fn(variables, images))


def random_images(shape: tuple[int, int, int]) -> Images:
    """Make seeded noise in [-1, 1], [b h w 3]."""
    return np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def fit_photo(
    photo: Float[np.ndarray, "h w 3"], *, stride: int, largest: int = 256, size: tuple[int, int] | None = None
) -> Float[np.ndarray, "1 H W 3"] | None:
    """Crop the middle of a photograph in [0, 1] to `size`, or to multiples of `stride`, in [-1, 1]. None if it is too small."""
    wanted = size or tuple(min(side, largest) // stride * stride for side in photo.shape[:2])
    if min(wanted) < SMALLEST * stride or any(side < want for side, want in zip(photo.shape, wanted, strict=False)):
        return None
    top, left = ((side - want) // 2 for side, want in zip(photo.shape, wanted, strict=False))
    return np.asarray(photo[None, top : top + wanted[0], left : left + wanted[1]] * 2 - 1, np.float32)


def measure_parity(
    exported_fn: Callable[[Images], Images], *, generator: Generator, variables: Mapping[str, Any], images: Mapping[str, Images]
) -> dict[str, float]:
    """Measure the largest absolute difference between an export and the model in float32, by image name; values are in [-1, 1].

    Raises InputError if it exceeds rounding (1e-4; 0.1 if `generator`, as it was exported, computes in bfloat16).
    """
    tolerance = TOLERANCES[str(jnp.dtype(generator.dtype))]
    apply_fn, differences = jax.jit(generator.clone(dtype=jnp.float32).apply), {}
    for name, batch in images.items():
        with jax.default_matmul_precision("highest"):  # the tolerance is that of float32; TF32 and bfloat16 have others
            expected = np.asarray(apply_fn(variables, batch))
        difference = float(np.abs(np.asarray(exported_fn(batch)) - expected).max())
        if not difference <= tolerance:  # NaN as well
            raise InputError(
                f"The export differs from the model (by {difference:.3g} on {name}), because the converter does not support this"
                " network; nothing was written. Use another --format (stablehlo is exact)."
            )
        differences[name] = difference
    return differences
