"""Sharpness of an image, compared with others of the same scene."""

import numpy as np
from jaxtyping import UInt8


def measure_sharpness(image: UInt8[np.ndarray, "h w 3"]) -> float:
    """Measure the variance of the Laplacian of the green channel, in squared grey levels. The image is at least 3x3.

    It grows with the sharpness of edges, but also with detail and noise. So compare only frames of one sequence with it.
    """
    grey = image[..., 1].astype(np.float32)
    inner = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4.0 * inner).var())
