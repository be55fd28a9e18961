"""Pairs as an endless stream of aligned, augmented batches, by tf.data.

Sample i of the stream (pair, crop, flip, rotation and noise) is a function of (seed, i) alone. So a run that resumes at
step k reads the same samples, bit for bit, as a run from 0. Nothing is saved with a checkpoint, and starting at any step costs nothing.
TensorFlow is imported inside functions, and is kept off the accelerators.
"""

import atexit
import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.opening import ImageSource
from drsn_jax.data.images.rgb import contents_of, plain_format, read_rgb
from drsn_jax.data.pairs.crops import CropLoader, check_samples, check_stream, half_of_memory
from drsn_jax.data.pairs.folders import Pair
from drsn_jax.system.errors import InputError


def make_batches(
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    crop_size: int,
    seed: int = 0,
    start_step: int = 0,
    num_steps: int | None = None,
    frame: str = "crop",
    flip: bool = True,
    rotate: bool = True,
    noise_variance: tuple[float, float] = (0.0, 0.0),
    noise_share: float = 1.0,
    cache: bool = False,
    cache_limit_bytes: int | None = None,
    bad_images: BadImages | None = None,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 2,
) -> Iterator[dict[str, Float32[np.ndarray, "b crop crop 3"]]]:
    """Make batches {'blurred', 'sharp'}, float32 [batch_size/process_count crop_size crop_size 3] in [-1, 1], from `start_step` on.

    Each epoch is a permutation of all pairs, and epochs may meet within a batch, so any number of pairs works. Both images of a pair get
    the same crop, flip (`flip`, left to right) and number of quarter turns (`rotate`). `frame` is as in `fit_frame`; `cache` keeps decoded
    frames as in `CropLoader`, up to `cache_limit_bytes` (None: half of the memory). `noise_variance` is a range on the scale [0, 1]. A
    share `noise_share` of the blurred crops gets Gaussian noise, as in `synthesis.camera_noise`. Its standard deviation is uniform between
    the range's square roots. The crop is then clipped and rounded to k/255. Process p of n makes the p-th of n equal parts of each batch.
    Raises `InputError` at once for invalid arguments and without TensorFlow. A damaged image raises it by name when its turn comes, unless
    `bad_images` skips it (see `CropLoader`).
    """
    check_stream(len(pairs), batch_size, start_step, num_steps, process_index, process_count, prefetch)
    check_samples(crop_size, frame, seed, noise_variance)
    files = [(pair.blurred, pair.sharp) for pair in pairs]
    limit = None if not cache else half_of_memory() if cache_limit_bytes is None else cache_limit_bytes
    load = CropLoader(
        files,
        frame=frame,
        crop_size=crop_size,
        flip=flip,
        rotate=rotate,
        cache_limit_bytes=limit,
        bad_images=bad_images,
        decode=_decode_rgb,
    )
    faults: dict[int, InputError] = {}
    sample_fn = _make_sample_fn(load, faults, seed=seed, noise_variance=noise_variance, noise_share=noise_share)
    stop = np.iinfo(np.int64).max if num_steps is None else (start_step + num_steps) * batch_size
    indices = import_tensorflow().data.Dataset.range(start_step * batch_size, stop)
    parts = indices.batch(batch_size // process_count).shard(process_count, process_index)
    batches = _iterate(parts.unbatch(), sample_fn, load, faults, rows=batch_size // process_count, prefetch=prefetch)
    atexit.register(_close, weakref.ref(batches))
    return batches


def _close(batches: weakref.ref) -> None:
    """Close a stream that is still open at exit, because TensorFlow's threads would block the end of the interpreter."""
    if (stream := batches()) is not None:
        stream.close()


def import_tensorflow() -> Any:
    """Import tensorflow without its use of the accelerators; raises `InputError` if it is not installed."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise InputError(
            "Training from folders needs TensorFlow, which is not installed: pip install 'drsn-jax[data]', "
            "or train on resident data (--config.data=resident)"
        ) from error
    with contextlib.suppress(RuntimeError):  # raised if TensorFlow already uses its devices; then it is too late
        tf.config.set_visible_devices([], "GPU")
    return tf


def _decode_rgb(file: ImageSource) -> UInt8[np.ndarray, "h w 3"]:
    """Decode as `read_rgb`, with TensorFlow's faster decoders for plain PNG and JPEG."""
    import tensorflow as tf  # `make_batches` has prepared it

    contents = contents_of(file)
    plain = plain_format(contents)
    with contextlib.suppress(tf.errors.InvalidArgumentError):  # damaged; `read_rgb` reports it by name
        if plain == "PNG":
            return tf.io.decode_png(contents, channels=3).numpy()
        if plain == "JPEG":
            return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return read_rgb(file)


def _make_sample_fn(
    load: CropLoader, faults: dict[int, InputError], *, seed: int, noise_variance: tuple[float, float], noise_share: float
) -> Callable[[Any], dict[str, Any]]:
    """Make index in the stream -> {'blurred', 'sharp'}, uint8 [crop crop 3], and 'fault', a key of `faults` or -1, in TensorFlow."""
    tf = import_tensorflow()
    num_pairs, crop_size = len(load.files), load.crop_size

    def load_or_note(number: np.integer, draws: np.ndarray) -> tuple[np.ndarray, np.int64]:
        # An exception raised through TensorFlow loses its type, and its traceback is logged once per thread.
        try:
            return load(number, draws), np.int64(-1)
        except InputError as error:
            faults[int(number)] = error
            return np.zeros([2, crop_size, crop_size, 3], np.uint8), np.int64(number)

    def sample_fn(index: Any) -> dict[str, Any]:
        epoch, place = index // num_pairs, index % num_pairs
        number = tf.random.experimental.index_shuffle(place, seed=[seed, epoch], max_index=num_pairs - 1)
        window, *noise = tf.unstack(tf.random.experimental.stateless_split([seed, index], 3, alg="philox"))
        # Crop, flip and rotation are views in numpy but copies in TensorFlow: 1 ms instead of 6 at 256x256 (measured).
        crops, fault = tf.numpy_function(load_or_note, [number, _uniform(window, [4])], (tf.uint8, tf.int64), stateful=False)
        blurred, sharp = tf.unstack(tf.ensure_shape(crops, [2, crop_size, crop_size, 3]))
        blurred = _add_noise(blurred, noise, noise_variance, noise_share) if max(noise_variance) > 0 else blurred
        return {"blurred": blurred, "sharp": sharp, "fault": tf.ensure_shape(fault, [])}

    return sample_fn


def _add_noise(blurred: Any, seeds: Sequence[Any], variance: tuple[float, float], share: float) -> Any:
    tf = import_tensorflow()
    low, high = math.sqrt(variance[0]), math.sqrt(variance[1])
    drawn, chance = tf.unstack(_uniform(seeds[0], [2]))
    deviation = tf.where(chance < share, low + (high - low) * drawn, 0.0)
    noisy = tf.cast(blurred, tf.float32) / 255.0 + deviation * tf.random.stateless_normal(blurred.shape, seeds[1], alg="philox")
    return tf.cast(tf.round(255.0 * tf.clip_by_value(noisy, 0.0, 1.0)), tf.uint8)


def _uniform(seed: Any, shape: Sequence[int] = ()) -> Any:
    return import_tensorflow().random.stateless_uniform(shape, seed, alg="philox")


def _iterate(
    indices: Any,
    sample_fn: Callable[[Any], dict[str, Any]],
    load: CropLoader,
    faults: dict[int, InputError],
    *,
    rows: int,
    prefetch: int,
) -> Iterator[dict[str, Float32[np.ndarray, "b crop crop 3"]]]:
    tf = import_tensorflow()

    def to_network_range(batch: dict[str, Any]) -> dict[str, Any]:
        return batch | {name: tf.cast(batch[name], tf.float32) / 127.5 - 1.0 for name in ("blurred", "sharp")}

    samples = indices.map(sample_fn, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = samples.batch(rows, drop_remainder=True).map(to_network_range).prefetch(prefetch)
    try:
        for batch in batches.as_numpy_iterator():
            fault = batch.pop("fault").max()
            if fault >= 0:
                raise faults[int(fault)]
            yield batch
    finally:
        load.frames.clear()  # TensorFlow keeps the function, and with it the frames, longer than the iterator lives
