"""Scores of one image without ground truth: indications, not measures of restoration.

`blur_effect` (Crété-Roffet, Dolmiere, Ladret & Nicolas 2007) is 0 for sharp and 1 for blurred. It is the share of the differences between
neighbours that further blurring removes. Noise, ringing and sharpening read as sharp, because it cannot distinguish them from detail. A
plain subject (sky, fog, bokeh) reads as blurred.

`noise_sigma` (Donoho & Johnstone 1994) estimates the noise's standard deviation on the image scale [0, 1]. It is the median of the finest
diagonal wavelet coefficients over 0.6745. It cannot distinguish noise from fine texture. It misses noise that is smoothed, JPEG-compressed,
or clipped at black and white. Read the two together.
"""

# Alternatives that failed: brisque 0.2.0 on numpy 2.4; scikit-video (NIQE) has had no release since 2017; pyiqa downloads its weights.

import warnings
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from drsn_jax.system.errors import InputError

NOREFERENCE_MINIMUM_SIDE = 16
"""`blur_effect` smooths over 11 pixels and excludes the border."""


def score_noreference(image: UInt8[np.ndarray, "_ _ 3"]) -> dict[str, float]:
    """Compute `blur_effect` (0 sharp to 1 blurred) and `noise_sigma` (standard deviation, image scale [0, 1]) by scikit-image.

    Image: uint8 RGB [h w 3], at least 16x16. A constant image gives 1 and 0. Raises InputError for
    smaller images, and if scikit-image or PyWavelets is not installed.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise TypeError(f"No-reference scores take a uint8 image of shape [h w 3]; got {image.dtype} {list(image.shape)}.")
    height, width = image.shape[:2]
    side = NOREFERENCE_MINIMUM_SIDE
    if min(height, width) < side:
        raise InputError(f"The image is {width}x{height} pixels; no-reference scores need at least {side}x{side}; leave it out.")
    blur_effect, estimate_sigma = import_scores()
    floats = image.astype(np.float64) / 255
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # the median of an empty set, for a channel without detail
        noise = np.nan_to_num(np.asarray(estimate_sigma(floats, channel_axis=-1)), nan=0.0).mean()
    return {"blur_effect": float(np.asarray(blur_effect(floats, h_size=11, channel_axis=-1))), "noise_sigma": float(noise)}


def import_scores() -> tuple[Callable, Callable]:
    """Import scikit-image's blur_effect and estimate_sigma; InputError if it, or PyWavelets, is not installed."""
    try:
        import pywt  # noqa: F401  (scikit-image asks for it only once it computes)
        from skimage.measure import blur_effect
        from skimage.restoration import estimate_sigma
    except ImportError as error:
        message = f"No-reference scores need scikit-image and PyWavelets ({error}): pip install 'drsn-jax[noreference]'."
        raise InputError(message) from error
    return blur_effect, estimate_sigma
