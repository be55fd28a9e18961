"""Köhler's benchmark (Köhler, Hirsch, Mohler, Schölkopf & Harmeling 2012): one image against every frame of its trajectory.

The camera moved through about 199 places during the exposure. A restored image may show the scene from any of them. For each ground truth
frame x (SPEC section 3):

1. The restored z is multiplied by sum(x z) / sum(z z).
2. z is shifted by whole pixels to the largest circular cross-correlation with x, of the channels' means.
3. Rows and columns that come in are black in z and in x.
4. PSNR and multi-scale SSIM are taken over all pixels, the black ones included.

The image's score is the largest over the frames, separately for each figure. The benchmark's is the mean over 48 images.

Values are 0..255 with 255 as the peak; the scaled z is neither rounded nor clipped. PSNR and MS-SSIM are computed on RGB.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float, Int, UInt8

from drsn_jax.evaluation.metrics.multiscale import check_multiscale, ms_ssim_of_floats
from drsn_jax.ops.metrics import psnr, to_decibels
from drsn_jax.system.errors import InputError

Image = UInt8[np.ndarray, "_ _ 3"]

KOEHLER_SKIPPED: dict[tuple[int, int], frozenset[int]] = {(1, 3): frozenset({30, 199})}
"""Frame numbers, from 1, that are skipped, by (scene, trajectory): the published script uses 1-29 and 31-198."""

_NAME = re.compile(r"(?:.*\D)?([1-4])_(1[0-2]|[1-9])")


@dataclass(frozen=True)
class KoehlerScore:
    """The best over the frames of a trajectory; each figure's maximum is taken separately."""

    psnr: float
    """dB, after scaling and registration; at most `PSNR_CAP_DB`."""
    ms_ssim: float
    psnr_unaligned: float
    """dB, neither scaled nor shifted: not the benchmark's figure."""
    frame: int
    """The number of the frame with the largest `psnr`."""
    shift: tuple[int, int]
    """(down, right) in pixels: the shift of the restored image onto that frame."""
    frames: int
    """The number of compared frames."""


def parse_koehler_name(name: str) -> tuple[int, int]:
    """Parse (scene 1-4, trajectory 1-12) from a file name such as `Blurry1_12.png`; folders, suffix and prefix do not matter.

    Raises InputError for any other name.
    """
    found = _NAME.fullmatch(PurePath(name).stem)
    if found is None:
        raise InputError(
            f"{name!r} is not the name of an image of Köhler's; keep the benchmark's names, Blurry1_1 to Blurry4_12 (scene_trajectory)."
        )
    return int(found[1]), int(found[2])


class Comparison(NamedTuple):
    """The result for one image and one frame; see `KoehlerScore`."""

    psnr: Float[Array, ""]
    ms_ssim: Float[Array, ""]
    psnr_unaligned: Float[Array, ""]
    shift: Int[Array, "2"]


def to_spectrum(image: UInt8[Array, "h w 3"]) -> Complex[Array, "h half"]:
    """Compute the Fourier transform of the channels' mean, minus its own mean.

    The mean only adds a constant to a circular cross-correlation; without it float32 keeps more digits of the peak.
    """
    gray = image.astype(jnp.float32).mean(-1)
    return jnp.fft.rfft2(gray - gray.mean())


def find_shift(truth: Complex[Array, "h half"], restored: Complex[Array, "h half"], *, width: int) -> Int[Array, "2"]:
    """Find the shift (down, right) in whole pixels of `restored` onto `truth`, both from `to_spectrum`.

    It is the maximum of the circular cross-correlation Re ifft2(X conj Z), not normalised (unlike phase correlation). Its range is [-h/2,
    h/2) and [-w/2, w/2), as in `dftregistration` (Guizar-Sicairos et al. 2008).
    """
    size = (truth.shape[0], width)
    correlation = jnp.fft.irfft2(truth * jnp.conj(restored), s=size)
    peak = jnp.unravel_index(jnp.argmax(correlation), size)
    return jnp.stack([jnp.where(at < (length + 1) // 2, at, at - length) for at, length in zip(peak, size, strict=True)])


def match_intensity(truth: UInt8[Array, "h w 3"], restored: UInt8[Array, "h w 3"]) -> Float[Array, ""]:
    """Compute the factor sum(x z) / sum(z z) that brings the restored z closest to the ground truth x; 0 if z is black.

    Rows are summed as integers, without an error up to widths of 11,000.
    """
    x, z = truth.astype(jnp.int32), restored.astype(jnp.int32)
    both, own = ((product.sum((1, 2)).astype(jnp.float32)).sum() for product in (x * z, z * z))
    return both / jnp.maximum(own, 1.0)


def find_covered(size: tuple[int, ...], shift: Int[Array, "2"]) -> Bool[Array, "h w 1"]:
    """Return the mask of pixels that an image of `size` covers after a (down, right) `shift`, which may be traced."""
    rows, columns = ((jnp.arange(n) >= by) & (jnp.arange(n) < n + by) for n, by in zip(size, shift, strict=True))
    return (rows[:, None] & columns[None])[..., None]


@jax.jit
def register(
    truth: UInt8[Array, "h w 3"],
    restored: UInt8[Array, "h w 3"],
    truth_spectrum: Complex[Array, "h half"],
    restored_spectrum: Complex[Array, "h half"],
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 3"], Int[Array, "2"]]:
    """Return the two images as compared by the benchmark, and the shift: ground truth and scaled, shifted restored image, black outside.

    Float in 0..255, the restored one neither rounded nor clipped; spectra from `to_spectrum`. Compiled once per size.
    """
    shift = find_shift(truth_spectrum, restored_spectrum, width=truth.shape[1])
    covered = find_covered(truth.shape[:2], shift)
    moved = jnp.roll(match_intensity(truth, restored) * restored.astype(jnp.float32), shift, (0, 1))
    return jnp.where(covered, truth.astype(jnp.float32), 0.0), jnp.where(covered, moved, 0.0), shift


@jax.jit
def _psnr_of_floats(x: Float[Array, "h w 3"], y: Float[Array, "h w 3"]) -> Float[Array, ""]:
    return to_decibels(((x - y) ** 2).mean((1, 2)).mean())  # by rows first: a float32 sum over millions of values would lose digits


_to_spectrum, _psnr = jax.jit(to_spectrum), jax.jit(psnr)


def _compare(truth: Array, restored: Array, truth_spectrum: Array, restored_spectrum: Array) -> Comparison:
    x, z, shift = register(truth, restored, truth_spectrum, restored_spectrum)
    return Comparison(_psnr_of_floats(z, x), ms_ssim_of_floats(z, x), _psnr(restored, truth), shift)


def score_koehler_many(images: Sequence[Image], truths: Iterable[tuple[int, Image]]) -> list[KoehlerScore]:
    """Score several versions of one image (blurred, restored by several methods) in one pass over the frames of its trajectory.

    `images`: uint8 [h w 3] of one size, at least 176x176. `truths` yields (number, uint8 [h w 3]) and may read lazily: at most two frames
    are kept. Exclude `KOEHLER_SKIPPED`. Raises InputError if sizes differ or are too small, or if there is no frame.
    """
    restored = [jnp.asarray(image) for image in images]
    spectra = [_to_spectrum(image) for image in restored]
    numbers: list[int] = []
    found: list[list[Comparison]] = []
    for number, frame in truths:
        for image in images:
            check_multiscale(image, frame)
        truth = jnp.asarray(frame)
        spectrum = _to_spectrum(truth)
        numbers.append(number)
        found.append([_compare(truth, image, spectrum, own) for image, own in zip(restored, spectra, strict=True)])
        found[-2:-1] = jax.device_get(found[-2:-1])  # waits for the previous frame while this one is computed and the next is read
    if not found:
        raise InputError("There is no ground truth frame of this trajectory; give at least one.")
    return [_best(numbers, one) for one in zip(*jax.device_get(found), strict=True)]


def _best(numbers: Sequence[int], found: Sequence[Comparison]) -> KoehlerScore:
    best = int(np.argmax([one.psnr for one in found]))
    return KoehlerScore(
        psnr=float(found[best].psnr),
        ms_ssim=max(float(one.ms_ssim) for one in found),
        psnr_unaligned=max(float(one.psnr_unaligned) for one in found),
        frame=numbers[best],
        shift=(int(found[best].shift[0]), int(found[best].shift[1])),
        frames=len(numbers),
    )
