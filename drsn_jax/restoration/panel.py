"""A photograph before and after, side by side, as a PNG file to look at."""

import numpy as np
from jaxtyping import Float, UInt8

from drsn_jax.panels import encode_png, make_panel
from drsn_jax.restoration.photo import Photo


def encode_panel(photo: Photo, restored: Float[np.ndarray, "h w 3"]) -> bytes:
    """The bytes of a PNG file: `photo` and `restored` ([0, 1]) at their full size under their labels; transparency is not shown."""
    if photo.mode.startswith("L"):
        restored = np.repeat(restored.mean(axis=-1, keepdims=True), 3, axis=-1)  # as it is written
    return encode_png(make_panel([_to_uint8(photo.rgb), _to_uint8(restored)], labels=["blurred", "restored"]))


def _to_uint8(image: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(image * np.float32(255)).astype(np.uint8)
