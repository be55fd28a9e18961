"""The samples of a stream of batches: the same random crop, flip and rotation of both images of a pair."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Float, UInt8

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.opening import ImageSource
from drsn_jax.data.images.rgb import FRAMES, check_same_size, fit_frame, fitted_size, image_size, read_rgb
from drsn_jax.system.errors import InputError


class CropLoader:
    """A function (number of a pair, four random draws) -> the same crop, flip and rotation of its two images. Thread-safe.

    `files` are (blurred, sharp), paths or stored images; `decode` is `read_rgb` or an equivalent. If `bad_images` skips a pair, the next
    one is used instead, with the same draws. `flip` mirrors half of the samples left to right, `rotate` turns by 0 to 3 quarters. With
    `cache_limit_bytes` fitted frames are kept in `frames`, so nothing is decoded twice. They need height * width * 6 bytes per pair: 11.6
    GB for GoPro's 2,103 pairs at full size. Raises `InputError` at once if the sum exceeds the limit.
    """

    def __init__(
        self,
        files: Sequence[tuple[ImageSource, ImageSource]],
        *,
        frame: str,
        crop_size: int,
        flip: bool = False,
        rotate: bool = False,
        cache_limit_bytes: int | None = None,
        bad_images: BadImages | None = None,
        decode: Callable[[ImageSource], UInt8[np.ndarray, "h w 3"]] = read_rgb,
    ):
        """Read nothing yet, except for the headers if the memory of a cache must be computed."""
        self.files, self.frame, self.crop_size, self.decode = files, frame, crop_size, decode
        self.flip, self.rotate, self.cache = flip, rotate, cache_limit_bytes is not None
        self.frames: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.bad_images = bad_images or BadImages(len(files), what="pairs", skip=False)
        if cache_limit_bytes is not None:
            self._check_memory(cache_limit_bytes)

    def __call__(self, number: int | np.integer, draws: Float[np.ndarray, " 4"]) -> UInt8[np.ndarray, "2 crop crop 3"]:
        """Return blurred and sharp crop, 0..255; `draws`, each in [0, 1), determine top, left, flip and rotation, in this order.

        Raises `InputError` if a file is unreadable, too small, or not of its partner's size.
        """
        following = ((int(number) + i) % len(self.files) for i in range(len(self.files)))
        read = (self.frames.get(i) or self.bad_images.read(str(self.files[i][0]), partial(self._fit, i)) for i in following)
        images = next(images for images in read if images is not None)
        down, right, mirror, turn = draws.tolist()
        height, width = (extent - self.crop_size + 1 for extent in images[0].shape[:2])
        top, left = int(down * height), int(right * width)
        crops = [image[top : top + self.crop_size, left : left + self.crop_size] for image in images]
        if self.flip and mirror < 0.5:
            crops = [crop[:, ::-1] for crop in crops]
        if self.rotate:
            crops = [np.rot90(crop, int(4 * turn)) for crop in crops]
        return np.stack(crops)

    def _fit(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        names = self.files[number]
        blurred, sharp = (self.decode(path) for path in names)
        check_same_size(names, (blurred.shape[:2], sharp.shape[:2]))
        blurred, sharp = (fit_frame(image, frame=self.frame, crop_size=self.crop_size) for image in (blurred, sharp))
        if min(blurred.shape[:2]) < self.crop_size:
            raise InputError(
                f"{names[0]} gives a frame of {blurred.shape[0]}x{blurred.shape[1]} (frame={self.frame!r}), "
                f"smaller than the crop of {self.crop_size}; use a smaller --config.crop_size or remove the pair"
            )
        if self.cache:
            self.frames[number] = (blurred, sharp)
        return blurred, sharp

    def _check_memory(self, limit: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            sizes = pool.map(lambda files: self.bad_images.read(str(files[0]), partial(image_size, files[0])), self.files)
            fitted = [fitted_size(size, frame=self.frame, crop_size=self.crop_size) for size in sizes if size is not None]
        needed = sum(height * width * 6 for height, width in fitted)
        if needed > limit:
            raise InputError(
                f"Caching {len(fitted)} pairs needs {needed / 1e9:.3g} GB, more than the limit of {limit / 1e9:.3g} GB. "
                "Switch the cache off, raise its limit, or use smaller frames (frame='half_crop' or 'resize')."
            )


def half_of_memory() -> int:
    """Return the default limit in bytes for a cache of frames; 4 GiB if the system does not report its memory (Windows)."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 4 * 2**30


def check_stream(
    num_pairs: int, batch_size: int, start_step: int, num_steps: int | None, rank: int, process_count: int, prefetch: int
) -> None:
    """Raise `InputError` for invalid arguments of a stream, for process `rank` of `process_count`."""
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
            raise InputError(f"{name}={value} is too small; use {least} or more")
    if not 0 <= rank < process_count:
        raise InputError(f"process_index={rank} is not among {process_count} processes; use 0 to {process_count - 1}")
    if batch_size % process_count:
        fitting = -(-batch_size // process_count) * process_count
        raise InputError(
            f"batch_size={batch_size} does not divide over {process_count} processes; "
            f"use a multiple of {process_count} (--config.batch_size={fitting})"
        )


def check_samples(crop_size: int, frame: str, seed: int, noise_variance: tuple[float, float]) -> None:
    """Raise `InputError` for invalid arguments of samples."""
    if crop_size < 1:
        raise InputError(f"crop_size={crop_size} is too small; use 1 or more")
    if frame not in FRAMES:
        raise InputError(f"frame={frame!r} is unknown; use one of {', '.join(FRAMES)}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed={seed} is out of range; use a whole number from 0 to 2**63 - 1")
    low, high = noise_variance
    if not 0 <= low <= high < np.inf:
        raise InputError(f"noise_variance=({low}, {high}) is not a range; use 0 <= low <= high on the scale [0, 1], such as (0, 0.001)")
