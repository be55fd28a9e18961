"""RealBlur's scoring (Rim, Lee, Won & Cho 2020): the restored image is first aligned to the sharp one, over a homography.

RealBlur's two cameras see the scene from slightly different places, and a restored image may be anywhere along the blur. The steps follow
the published scripts (MPRNet's and Restormer's `evaluate_realblur`), for the sharp x and the restored z:

1. z is multiplied by sum(x z) / sum(z z).
2. ECC (Evangelidis & Psarakis 2008) finds the homography from x.
3. z is warped by it (cubic, borders reflected), and so is a mask of ones (nearest, zeros beyond).
4. Both images are black where the mask is 0.
5. PSNR and the map of SSIM are averaged over the mask only.
"""

from dataclasses import dataclass
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from drsn_jax.evaluation.metrics.multiscale import ssim_map
from drsn_jax.ops.metrics import check_pair, to_decibels
from drsn_jax.system.errors import InputError

Image = UInt8[np.ndarray, "_ _ 3"]

_ITERATIONS, _SMALLEST_GAIN, _FILTER_PIXELS = 100, 0.0, 5  # as in the published scripts: all iterations are run
_BORDER = 5  # border without valid SSIM windows
_LEAST_COVERED = 0.5


@dataclass(frozen=True)
class RealBlurScore:
    """PSNR in dB (at most `PSNR_CAP_DB`) and SSIM over the pixels that both images show, after alignment."""

    psnr: float
    ssim_gaussian: float
    aligned: bool
    """Whether an alignment was found. If not, the images are scored without one, but with matched intensity."""


def score_realblur(restored: Image, sharp: Image) -> RealBlurScore:
    """Align, then score; images: uint8 RGB [h w 3] of one size, at least 11x11.

    An alignment is not used if it does not converge, or moves more than half of the image out of view. The published scripts stop there
    with an error. Raises InputError if sizes differ or are too small, or if OpenCV is not installed.
    """
    check_pair(restored, sharp)
    cv2 = import_opencv()
    x, z = (np.asarray(image).astype(np.float32) / np.float32(255) for image in (sharp, restored))
    z = z * np.float32(np.vdot(x.astype(np.float64), z) / max(np.vdot(z.astype(np.float64), z), 1e-12))
    homography = _find_homography(cv2, x, z)
    warped, covered = _warp(cv2, z, np.eye(3, dtype=np.float32) if homography is None else homography)
    aligned = homography is not None and bool(covered.mean() >= _LEAST_COVERED)
    if not aligned:
        warped, covered = z, np.ones_like(covered)
    psnr, ssim = jax.device_get(_score_covered(255 * warped, 255 * x, covered))
    return RealBlurScore(float(psnr), float(ssim), aligned)


def import_opencv() -> ModuleType:
    """Import the module cv2; InputError if OpenCV is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise InputError(f"RealBlur's alignment needs OpenCV ({error}): pip install 'drsn-jax[realblur]'.") from error
    return cv2


def _find_homography(cv2: ModuleType, sharp: Float[np.ndarray, "h w 3"], restored: Float[np.ndarray, "h w 3"]) -> np.ndarray | None:
    """Find the 3x3 matrix from a pixel of `sharp` to its place in `restored`, or None. Images: float in 0..1."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, _SMALLEST_GAIN)
    template, image = (cv2.cvtColor(array, cv2.COLOR_RGB2GRAY) for array in (sharp, restored))
    start = np.eye(3, dtype=np.float32)
    try:
        _, found = cv2.findTransformECC(template, image, start, cv2.MOTION_HOMOGRAPHY, criteria, None, _FILTER_PIXELS)
    except cv2.error:  # no convergence, or an image without contrast
        return None
    return found if np.isfinite(found).all() else None


def _warp(cv2: ModuleType, image: np.ndarray, homography: np.ndarray) -> tuple[Float[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Warp the image by the homography; also returns the mask of valid pixels."""
    height, width = image.shape[:2]
    inverse = cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(image, homography, (width, height), flags=cv2.INTER_CUBIC + inverse, borderMode=cv2.BORDER_REFLECT)
    ones = np.ones((height, width), np.float32)
    return warped, cv2.warpPerspective(ones, homography, (width, height), flags=cv2.INTER_NEAREST + inverse) > 0


@jax.jit
def _score_covered(
    restored: Float[Array, "h w 3"], sharp: Float[Array, "h w 3"], covered: Bool[Array, "h w"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Compute PSNR and SSIM over the covered pixels of images in 0..255. As published, SSIM's windows include the black pixels."""
    mask = covered[..., None].astype(jnp.float32)
    x, z = sharp * mask, restored * mask
    error = ((x - z) ** 2).mean((1, 2)).mean() / mask.mean()
    inner = mask[_BORDER:-_BORDER, _BORDER:-_BORDER]
    return to_decibels(error), (ssim_map(z, x) * inner).mean() / inner.mean()
