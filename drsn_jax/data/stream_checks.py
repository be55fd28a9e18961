"""What the arguments of a stream of batches may be."""

import numpy as np

from drsn_jax.data.frames import FRAMES
from drsn_jax.errors import InputError


def check_stream(
    num_pairs: int, batch_size: int, start_step: int, num_steps: int | None, rank: int, process_count: int, prefetch: int
) -> None:
    """Raises `InputError` for a stream that cannot be: of how much, from where, for process `rank` of how many."""
    if num_pairs < 1:
        raise InputError("No pairs of images were given; at least one is needed")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("start_step", start_step, 0),
        ("num_steps", num_steps or 0, 0),
        ("process_count", process_count, 1),
        ("prefetch", prefetch, 0),
    ):
        if value < least:
            raise InputError(f"{name}={value} is impossible; use {least} or more")
    if not 0 <= rank < process_count:
        raise InputError(f"process_index={rank} is not among {process_count} processes; use 0 to {process_count - 1}")
    if batch_size % process_count:
        fitting = -(-batch_size // process_count) * process_count
        raise InputError(
            f"batch_size={batch_size} does not divide over {process_count} processes; "
            f"use a multiple of {process_count} (--config.batch_size={fitting})"
        )


def check_samples(crop_size: int, frame: str, seed: int, noise_variance: tuple[float, float]) -> None:
    """Raises `InputError` for samples that cannot be drawn."""
    if crop_size < 1:
        raise InputError(f"crop_size={crop_size} is impossible; use 1 or more")
    if frame not in FRAMES:
        raise InputError(f"frame={frame!r} is unknown; use one of {', '.join(FRAMES)}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed={seed} is impossible; use a whole number from 0 to 2**63 - 1")
    low, high = noise_variance
    if not 0 <= low <= high < np.inf:
        raise InputError(f"noise_variance=({low}, {high}) is no range; use 0 <= low <= high on the scale [0, 1], such as (0, 0.001)")
