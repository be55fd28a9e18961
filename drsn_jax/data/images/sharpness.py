"""How sharp an image is, beside others of the same scene."""

import numpy as np
from jaxtyping import UInt8


def measure_sharpness(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """The variance of the Laplacian of the green channel: larger where edges are sharper, and where there is more to see or more noise.

    In squared grey levels, 3x3 at least. A figure for comparing frames of one sequence, not photographs of different things.
    """
    grey = image[..., 1].astype(np.float32)
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4.0 * inner).var())
