"""`drsn_jax.restore_image`: restoration of an image in memory, with a model given by name or path."""

from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from drsn_jax.ops.devices import find_device
from drsn_jax.restoration.core.restorer import make_restore_fn
from drsn_jax.restoration.core.tiling import to_uint8
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import Model, load_model
from drsn_jax.weights.shipped import SHIPPED, find_model

_EXCESS = 1e-3  # tolerance beyond [0, 1]
_SHAPES = "[h w 3], grey [h w] or [h w 1], or with alpha [h w 4]"


def restore_image(
    image: UInt8[np.ndarray | Array, "h w *channels"] | Float[np.ndarray | Array, "h w *channels"],
    *,
    model: str | Path = SHIPPED[0],
    strength: float = 1.0,
    self_ensemble: bool = False,
    tile: int | None = 768,
    overlap: int = 64,
    device: str | None = None,
    dtype: str | None = None,
) -> UInt8[np.ndarray, "h w *channels"] | Float[np.ndarray, "h w *channels"]:
    """Restore a blurred image of any size: uint8 gives uint8, floats in [0, 1] give float32 in [0, 1], of the same shape.

    Shapes are [h w 3] (RGB), grey [h w] or [h w 1], and [h w 4] with an alpha that is kept. Floats may have any precision, including
    bfloat16; values up to 0.001 beyond [0, 1], a result of resampling, are clipped. `model` is the name of a shipped model or a path for
    `load_model`. `device` is cpu, gpu, tpu or one of them with a number (cpu:1); the default is jax's. `dtype` is float32, the default, or
    bfloat16. The other options are those of `make_restore_fn`. The last two models stay loaded and are not read again, so newer checkpoints
    of a running training are not seen. For many images, or to release a model, use `load_model` and `make_restore_fn`. Raises InputError
    for other shapes, types and values, and as those two and `find_device`.
    """
    pixels = _check(image)
    if not isinstance(model, str | Path):
        raise InputError(f"model={model!r} is not a model; give one of {', '.join(SHIPPED)}, or the path of a model.")
    restore_fn = make_restore_fn(
        _load(find_model(model), device, dtype), strength=strength, self_ensemble=self_ensemble, tile=tile, overlap=overlap
    )
    scaled = pixels.astype(np.float32) / np.float32(255 if pixels.dtype == np.uint8 else 1)
    channels = scaled if scaled.ndim == 3 else scaled[..., None]
    grey = channels.shape[-1] == 1
    restored = restore_fn(np.repeat(channels, 3, axis=-1) if grey else channels[..., :3])
    if grey:
        restored = restored.mean(axis=-1, keepdims=True)
    restored = np.concatenate([restored, channels[..., 3:]], axis=-1).reshape(pixels.shape)
    return to_uint8(restored) if pixels.dtype == np.uint8 else restored


@lru_cache(maxsize=2)
def _load(path: Path, device: str | None, dtype: str | None) -> Model:
    return load_model(path, device=find_device(device), dtype=dtype)


def _check(image: np.ndarray | Array) -> np.ndarray:
    if not isinstance(image, np.ndarray | jax.Array):
        raise InputError(f"An image of type {type(image).__name__} cannot be restored; give an array, {_SHAPES}: numpy.asarray(image).")
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3) or not pixels.size or (pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4)):
        raise InputError(f"An image of shape {list(pixels.shape)} cannot be restored; give {_SHAPES}, with at least one pixel.")
    if pixels.dtype == np.uint8:
        return pixels
    if not jnp.issubdtype(pixels.dtype, jnp.floating):  # jax's function also accepts bfloat16
        raise InputError(f"An image of {pixels.dtype} cannot be restored; give uint8, or floats in [0, 1].")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_EXCESS and high <= 1 + _EXCESS):  # NaN compares as False
        raise InputError(
            f"An image with values from {low:.9g} to {high:.9g} cannot be restored; scale and clip floats to [0, 1], or give uint8."
        )
    return np.clip(pixels.astype(np.float32), 0, 1)
