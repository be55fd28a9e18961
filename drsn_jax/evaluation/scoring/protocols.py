"""Protocols: the preparation of a test image before restoration and scoring. Figures are meaningless without one (SPEC section 3).

The protocol applies to the blurred and the sharp image. The noise is added afterwards, only to the blurred one.
"""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from drsn_jax.config.values import CHOICES
from drsn_jax.system.errors import InputError

PROTOCOLS = CHOICES["eval_protocol"]
"""Protocols for pairs, by the scored size."""

BENCHMARKS = ("realblur", "koehler", "koehler_single", "noreference")
"""Benchmarks' own protocols, at full size; see `scorers`."""

_IN_WORDS = {
    "full": "whole frames at full resolution, as in the files",
    "half": "whole frames at half size (bicubic, antialiased)",
    "realblur": "whole frames at full resolution; each result is aligned to the sharp image first, as RealBlur's authors do",
    "koehler": "whole frames at full resolution; each result is scaled and registered to the trajectory's frames, the best score counts",
    "koehler_single": "Köhler's protocol with one ground truth per scene, a single-GT approximation of the benchmark: whole frames at"
    " full resolution; each result is scaled and registered to that truth",
    "noreference": "whole frames at full resolution without a sharp image to compare with: the figures are indications, see the pictures",
    "resize256": "whole frames resized to 256x256 pixels for any shape (bicubic, antialiased): reads 1-6 dB above full resolution",
}
_RESIZED = 256


def check_protocol(protocol: str, *, noise_variance: float = 0.0) -> None:
    """Raise InputError for an unknown protocol or a variance that is negative or not finite."""
    if protocol not in (allowed := (*PROTOCOLS, *BENCHMARKS)):
        raise InputError(f"There is no evaluation protocol {protocol!r}; choose one of {', '.join(allowed)}.")
    if not (math.isfinite(noise_variance) and noise_variance >= 0):
        raise InputError(f"A noise variance of {noise_variance} is invalid; give 0 for none, or a positive number such as 0.001.")


def describe_protocol(protocol: str, *, noise_variance: float = 0.0) -> str:
    """Describe the protocol and the noise in words, for reports."""
    check_protocol(protocol, noise_variance=noise_variance)
    noise = "no noise added"
    if noise_variance:
        noise = (
            f"Gaussian noise of variance {noise_variance:g} (image scale [0, 1]) added to the blurred image, drawn with"
            " numpy.random.default_rng(index of the file in sorted order, from 0).normal, then clipped and rounded to 8 bits"
        )
    return f"{_IN_WORDS[protocol]}; {noise}"


def scored_size(size: tuple[int, int], *, protocol: str) -> tuple[int, int]:
    """Return the (height, width) for scoring an image of `size`. Raises InputError for another protocol, or if nothing is left."""
    check_protocol(protocol)
    if protocol == "half" and min(size) < 2:
        raise InputError(f"An image of {size[1]}x{size[0]} pixels cannot be halved; use the protocol full for it.")
    return {"half": (size[0] // 2, size[1] // 2), "resize256": (_RESIZED, _RESIZED)}.get(protocol, size)


def apply_protocol(image: UInt8[np.ndarray, "h w 3"], *, protocol: str) -> UInt8[np.ndarray, "H W 3"]:
    """Resize the image to the size for scoring: uint8 in, uint8 out.

    `full` and the benchmarks change nothing, `half` halves both sides (rounded down) and `resize256` makes it 256x256, both with Pillow's
    antialiased bicubic filter. Raises InputError for another protocol, or if nothing is left after halving.
    """
    height, width = scored_size((image.shape[0], image.shape[1]), protocol=protocol)
    if protocol not in ("half", "resize256"):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def add_noise(image: UInt8[np.ndarray, "h w 3"], *, variance: float, index: int) -> UInt8[np.ndarray, "h w 3"]:
    """Add Gaussian noise of mean 0 and `variance` on the scale [0, 1], clipped and rounded to uint8 (SPEC section 3).

    The seed is `index`, the position of the file in sorted order, so a file gets the same noise in every run. Raises
    InputError for a variance that is negative or not finite.
    """
    check_protocol("full", noise_variance=variance)
    if variance == 0:
        return image
    noise = np.random.default_rng(index).normal(0.0, math.sqrt(variance), image.shape)
    return np.round(np.clip(image / 255.0 + noise, 0.0, 1.0) * 255.0).astype(np.uint8)
