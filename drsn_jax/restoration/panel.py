"""A photograph before and after, side by side, as a PNG file to look at."""

import numpy as np
from jaxtyping import Float

from drsn_jax.panels import encode_png, make_panel
from drsn_jax.restoration.photo import Photo
from drsn_jax.restoration.tiling import to_uint8


def encode_panel(photo: Photo, restored: Float[np.ndarray, "h w 3"]) -> bytes:
    """The bytes of a PNG file: `photo` and `restored` ([0, 1]) at their full size under their labels; transparency is not shown."""
    if photo.mode.startswith("L"):
        restored = np.repeat(restored.mean(axis=-1, keepdims=True), 3, axis=-1)  # as it is written
    return encode_png(make_panel([to_uint8(photo.rgb), to_uint8(restored)], labels=["blurred", "restored"]))
