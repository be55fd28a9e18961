"""The input pipelines: ours and the Keras reference's way of reading images, on synthetic pairs of the bench."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from drsn_jax.benchmark.prepared import Prepared, process_peak_bytes
from drsn_jax.benchmark.rows import Row
from drsn_jax.data.pairs.folders import Pair, find_pairs
from drsn_jax.data.pairs.pipeline import make_batches
from drsn_jax.system.errors import InputError

PAIRS, SIZE = 8, (1280, 720)  # width and height of GoPro's frames
_PASSES = 2  # over the pairs in one call, to spread the start of the pipeline


def describe_device() -> dict[str, Any]:
    """Describe the CPU, which decodes the images."""
    return {"platform": "cpu", "device": "cpu"}


def peak_bytes() -> int | None:
    """Return the peak memory of the process so far."""
    return process_peak_bytes()


def write_pairs(folder: Path, *, pairs: int = PAIRS, size: tuple[int, int] = SIZE) -> str:
    """Write pairs as PNG into blur/ and sharp/ below `folder`; `size` is width x height. Returns a description.

    The images are smoothed noise at three scales, because PNG compresses it about as far as a photograph. Plain noise or gradients are not
    like that.
    """
    for i in range(pairs):
        rng, (width, height) = np.random.default_rng(i), size
        layers = []
        for scale in (1, 8, 64):
            noise = rng.integers(0, 256, (-(-height // scale) + 1, -(-width // scale) + 1, 3), dtype=np.uint8)
            layers.append(np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), np.float32))
        sharp = Image.fromarray((0.06 * layers[0] + 0.34 * layers[1] + 0.6 * layers[2]).astype(np.uint8))
        for kind, image in (("sharp", sharp), ("blur", sharp.filter(ImageFilter.BoxBlur(4)))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            image.save(folder / kind / f"{i:06d}.png")
    width, height = size
    megabytes = sum(file.stat().st_size for file in folder.rglob("*.png")) / 1e6 / pairs
    return f"{pairs} pairs of {width}x{height} PNG of smoothed noise at three scales, {megabytes:.1f} MB a pair, in the system's cache"


def prepare(row: Row, *, config: Mapping[str, Any], folder: str) -> Prepared:
    """Read every pair as the reference does: Pillow, one at a time, the whole frame resized, the whole set in memory."""
    del row
    files, size = find_pairs(folder), (config["crop_size"], config["crop_size"])

    def load(pair: Pair) -> list[np.ndarray]:
        images = [Image.open(file).convert("RGB").resize(size) for file in (pair.blurred, pair.sharp)]  # pyright: ignore
        return [(np.array(image, np.float32) - 127.5) / 127.5 for image in images]

    about = "The Keras reference's loader is independent of the back end: Pillow, one thread, whole frames resized."
    return Prepared(lambda: [np.stack(images) for images in zip(*map(load, files), strict=True)], len(files), about=about)


def prepare_ours(folder: str, *, config: Mapping[str, Any]) -> Prepared:
    """Make, per call, as many of our batches as two passes over the pairs hold, including the start of the pipeline.

    Raises InputError if TensorFlow is not installed.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError("needs TensorFlow, which is not installed: pip install 'drsn-jax[bench]'")
    files, batch_size = find_pairs(folder), config["batch_size"]
    steps = max(1, _PASSES * len(files) // batch_size)
    options: dict[str, Any] = {key: config[key] for key in ("crop_size", "frame", "flip", "rotate")}
    options["noise_variance"] = tuple(config["noise_variance"])

    def call() -> None:
        for _ in make_batches(files, batch_size=batch_size, num_steps=steps, prefetch=max(config["prefetch"], 1), **options):
            pass

    about = f"Ours reads by tf.data with frame={config['frame']}, from decoding to batches in [-1, 1]."
    return Prepared(call, steps * batch_size, about=about)
