"""The measurements on an image under each protocol, with notes on each figure.

A scorer computes figures from the versions of one image (blurred, restored, other methods' results) and the ground truth. The versions
are scored together, because reading the ground truth may be expensive: on Köhler it is 199 frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from drsn_jax.evaluation.metrics.aligned import LARGEST_SHIFT, psnr_aligned
from drsn_jax.evaluation.metrics.multiscale import MS_SSIM_MINIMUM_SIDE, ms_ssim
from drsn_jax.ops.metrics import SSIM_KINDS, check_pair, score_pair

Image = UInt8[np.ndarray, "_ _ 3"]
Scores = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """A figure: its name in files, title in tables, number of digits, better direction and description."""

    name: str
    title: str
    words: str
    digits: int = 4
    higher_is_better: bool | None = True  # None: not a measure of quality

    def format(self, value: float, *, signed: bool = False) -> str:
        """Format a value with this figure's digits."""
        return f"{value:{'+' if signed else ''}.{self.digits}f}"


class Scorer(NamedTuple):
    """A function that computes figures for the versions of one image.

    `check_fn(image, truth)` raises InputError for images that cannot be scored, before the costly work.
    """

    metrics: tuple[Metric, ...]
    score_fn: Callable[[Sequence[Image], Any], list[Scores]]
    check_fn: Callable[[Image, Any], None] = lambda image, truth: None


PSNR = Metric("psnr", "PSNR (dB)", "20 log10(255 / RMSE) of uint8 RGB over all pixels; 100 dB for identical images", 2)
SSIMS = tuple(Metric(name, f"SSIM ({name.removeprefix('ssim_')})", words) for name, words in SSIM_KINDS.items())
MS_SSIM = Metric("ms_ssim", "MS-SSIM", "multi-scale SSIM: five scales, Gaussian window, each channel (tf.image.ssim_multiscale)")
PSNR_ALIGNED = Metric(
    "psnr_aligned",
    "PSNR aligned (dB)",
    f"the largest PSNR over whole-pixel shifts of up to {LARGEST_SHIFT}, for both input and result, without a border of"
    f" {LARGEST_SHIFT} pixels",
    2,
)
LPIPS = Metric(
    "lpips", "LPIPS (alex)", "distance of AlexNet features, weighted by human judgements (Zhang et al. 2018)", higher_is_better=False
)
BASIC = (PSNR, *SSIMS)


def _score_basic(image: Image, sharp: Image) -> Scores:
    return {name: float(value) for name, value in jax.device_get(score_pair(image, sharp)).items()}


PAIRED = Scorer(BASIC, lambda images, sharp: [_score_basic(image, sharp) for image in images], check_pair)
"""PSNR and the three SSIMs against the sharp image: what training validates by."""


def make_paired_scorer(*, smallest_side: int, lpips: bool = False, aligned: bool = False) -> Scorer:
    """Make the scorer of pairs: PSNR, the SSIMs, and MS-SSIM if the smallest side of all images (pixels) allows five scales.

    `lpips` adds LPIPS, and `aligned` adds PSNR over whole-pixel shifts. Raises InputError if the package of LPIPS is missing.
    """
    metrics: list[Metric] = list(BASIC)
    further: list[tuple[str, Callable]] = []
    if aligned:
        metrics.insert(1, PSNR_ALIGNED)
        further.append(("psnr_aligned", psnr_aligned))
    if smallest_side >= MS_SSIM_MINIMUM_SIDE:
        metrics.append(MS_SSIM)
        further.append(("ms_ssim", ms_ssim))  # outside jit: XLA's CPU back end would fuse its steps, which takes 97 ms instead of 66
    if lpips:
        from drsn_jax.evaluation.metrics.lpips import make_lpips

        metrics.append(LPIPS)
        further.append(("lpips", make_lpips()))

    def score(images: Sequence[Image], sharp: Image) -> list[Scores]:
        return [_score_basic(image, sharp) | {name: float(fn(image, sharp)) for name, fn in further} for image in images]

    return Scorer(tuple(metrics), score, check_pair)


def make_realblur_scorer() -> Scorer:
    """Make RealBlur's scorer: after alignment to the sharp image (see `realblur`). Raises InputError if OpenCV is not installed."""
    from drsn_jax.evaluation.metrics.realblur import import_opencv, score_realblur

    import_opencv()
    metrics = (
        Metric("psnr", "PSNR (dB)", "after ECC alignment to the sharp image, over the pixels that both show (RealBlur's definition)", 2),
        Metric("ssim_gaussian", "SSIM (gaussian)", f"after the same alignment, over the same pixels; {SSIM_KINDS['ssim_gaussian']}"),
        Metric("aligned", "aligned", "1 if the alignment converged; otherwise the images are scored without it", 2),
    )

    def score(images: Sequence[Image], sharp: Image) -> list[Scores]:
        found = [score_realblur(image, sharp) for image in images]
        return [{"psnr": one.psnr, "ssim_gaussian": one.ssim_gaussian, "aligned": float(one.aligned)} for one in found]

    return Scorer(metrics, score, check_pair)


def make_koehler_scorer(*, single_truth: bool) -> Scorer:
    """Make Köhler's scorer: the best over the frames of a trajectory, each after scaling and registration (see `koehler`).

    The truth is a function that opens the frames: `() -> iterator of (number, uint8 [h w 3])`. With `single_truth` the figures are
    described as the approximation by one truth per scene.
    """
    from drsn_jax.evaluation.metrics.koehler import score_koehler_many

    over = (
        "against the one ground truth of its scene (single-GT approximation)" if single_truth else "best over the frames of the trajectory"
    )
    registered = "RGB, after scaling and whole-pixel registration, over all pixels"
    metrics = (
        # The benchmark's MATLAB script takes luma instead: on the blurred images it reads 0.06 dB lower (measured), MS-SSIM 0.007 lower.
        Metric("psnr", "PSNR (dB)", f"{over}, {registered} (Köhler et al. 2012; their script: luma, 0.06 dB lower on the input)", 2),
        Metric("ms_ssim", "MS-SSIM", f"{over}, {registered}; five scales, each channel"),
        Metric("psnr_unaligned", "PSNR unaligned (dB)", f"{over}, without scaling or registration: not the benchmark's figure", 2),
        Metric("frames", "truth frames", "the number of compared frames", 1, None),
    )
    names = [metric.name for metric in metrics]

    def score(images: Sequence[Image], truth: Callable) -> list[Scores]:
        return [{name: float(getattr(one, name)) for name in names} for one in score_koehler_many(images, truth())]

    return Scorer(metrics, score)


def make_noreference_scorer() -> Scorer:
    """Make the scorer of images without ground truth (see `noreference`): indications, not a measure of restoration.

    Raises InputError if scikit-image or PyWavelets is not installed.
    """
    from drsn_jax.evaluation.metrics.noreference import import_scores, score_noreference

    import_scores()
    metrics = (
        Metric(
            "blur_effect",
            "blur effect",
            "0 sharp to 1 blurred (Crété et al. 2007, scikit-image); noise and ringing read as sharp",
            4,
            False,
        ),
        Metric(
            "noise_sigma",
            "noise sigma",
            "standard deviation of noise, wavelet estimate, image scale [0, 1]; fine texture reads as noise",
            5,
            False,
        ),
    )
    return Scorer(metrics, lambda images, _: [score_noreference(image) for image in images])
