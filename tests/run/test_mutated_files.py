"""Small image files with bytes flipped, cut and doubled, through restoring, evaluating and the page: sixty, or a thousand on demand."""

import asyncio
import random
import signal
import sys

import numpy as np
import pytest
from PIL import Image
from readers import encoded, tiff_block, to_levels, with_segments

pytest.importorskip("starlette", reason="the page needs starlette and uvicorn: pip install 'drsn-jax[serve]'")

from serving.test_serving import Caller

from drsn_jax.data.images import png16
from drsn_jax.data.images.iptc import jpeg_segment
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.evaluation.evaluate import evaluate
from drsn_jax.evaluation.metrics.scorers import PSNR, Scorer
from drsn_jax.evaluation.scoring.entries import Entry
from drsn_jax.restoration.restore import restore_files
from drsn_jax.serving.app import make_app
from drsn_jax.serving.job_queue import JobQueue
from drsn_jax.serving.limits import Limits
from drsn_jax.system.errors import InputError

SCORER = Scorer((PSNR,), lambda images, sharp: [{"psnr": float(np.abs(image - sharp).mean())} for image in images])


def sound_files():
    """Return (suffix, bytes) of one small file of each kind."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    deep = rng.integers(0, 65536, (24, 32, 4)).astype(np.uint16)
    exif = b"Exif\0\0" + tiff_block(6)
    return [
        (".jpg", with_segments(encoded(image, "JPEG", quality=90, comment=b"a comment"), exif)),
        (".jpg", encoded(image.convert("CMYK"), "JPEG", progressive=True)),
        (".jpg", encoded(image, "JPEG", extra=jpeg_segment(b"\x1c\x02\x78\x00\x07caption"))),
        (".png", encoded(image, "PNG", exif=exif)),
        (".png", encoded(image.quantize(9), "PNG", transparency=3)),
        (".png", png16.encode(deep, exif=tiff_block(6), chunks=[(b"tEXt", b"Author\0somebody")])),
        (".tif", encoded(image, "TIFF", tiffinfo={0x112: 6, 0x10F: "Maker"})),
        (".tif", encoded(image, "TIFF", compression="tiff_lzw")),
        (".tif", encoded(Image.fromarray(deep[..., 0]), "TIFF", tiffinfo={262: 0})),
        (".webp", encoded(image, "WEBP", lossless=True, exif=exif)),
        (".webp", encoded(image.convert("RGBA"), "WEBP", quality=80)),
        (".bmp", encoded(image, "BMP")),
        (".gif", encoded(image.quantize(17), "GIF", comment=b"a comment")),
        (".ppm", encoded(image, "PPM")),
        (".pgm", encoded(Image.fromarray(deep[..., 0]), "PPM")),
    ]


def mutate(data, draw):
    """One to three of: some bytes flipped, the end cut off, a piece cut out, a piece doubled; half of the time near the start."""
    for _ in range(draw.randint(1, 3)):
        reach = len(data) if draw.random() < 0.5 else min(len(data), 200)
        start, length = draw.randrange(reach), draw.randint(1, 40)
        kind = draw.choice(["flip", "flip", "cut", "drop", "double"])
        if kind == "flip":
            changed = bytearray(data)
            for at in (draw.randrange(reach) for _ in range(draw.randint(1, 4))):
                changed[at] ^= draw.randint(1, 255)
            data = bytes(changed)
        elif kind == "cut":
            data = data[: max(start, 1)]
        elif kind == "drop":
            data = data[:start] + data[start + length :] or b"\0"
        else:
            data = data[: start + length] + data[start:]
    return data


def mutated_files(count, seed=0):
    draw, kinds = random.Random(seed), sound_files()
    for number in range(count):
        suffix, data = kinds[number % len(kinds)]
        yield f"{number:04d}{suffix}", mutate(data, draw)


def restore(path, folder):
    report = restore_files([path], output=folder, restore_fn=lambda image: image)
    for target in report.restored:
        read_rgb(target)  # whole
    assert sorted(folder.iterdir() if folder.exists() else []) == sorted(report.restored), "nothing else, and nothing half-written"
    for target in report.restored:
        target.unlink()
    assert all("\n" not in message for _, message in report.failed)
    return bool(report.restored)


def score(path, folder):
    try:
        evaluate(
            [Entry("a", path, path)],
            restore_fn=lambda image: image,
            model_info={"path": "none", "step": 0, "parameters": 0, "sha256": path.name},
            output=folder,
            scorer=SCORER,
            max_panels=0,
            overwrite=True,
        )
    except InputError as error:
        message = str(error)
    else:
        (folder / "metrics.json").unlink()
        return True
    assert "\n" not in message
    assert not (folder / "metrics.json").exists(), "the report of another file"
    return False


def post(path, application):
    async def ask():
        return await Caller(application, [path.read_bytes()]).answer()

    answer = asyncio.run(ask())
    assert answer.status in (200, 422), answer
    if answer.status == 422:
        assert "command" not in answer.says()
        assert "--" not in answer.says()
    return answer.status == 200


def hang(*_):
    raise AssertionError("reading this file takes more than a minute")


def through_all(folder, capfd, *, count):
    """Count the mutated files that each verb reads. Only our own lines may reach the terminal."""
    private = folder / "private"
    private.mkdir()
    make_fn = lambda choices, check: lambda image: to_levels(image).astype(np.float32) / np.float32(255)  # noqa: E731
    application = make_app(make_fn, folder=private, jobs=JobQueue(), model="none", limits=Limits(max_pixels=10**7), hosts=("testserver",))
    before = signal.signal(signal.SIGALRM, hang)
    read = {"restore": 0, "evaluate": 0, "serve": 0}
    try:
        for name, data in mutated_files(count):
            path = folder / name
            path.write_bytes(data)
            signal.alarm(60)
            outcomes = restore(path, folder / "out"), score(path, folder / "scores"), post(path, application)
            signal.alarm(0)
            assert len(set(outcomes)) == 1, f"the verbs disagree about {name}: {outcomes}"
            read = {verb: number + outcome for (verb, number), outcome in zip(read.items(), outcomes, strict=True)}
            assert not list(private.iterdir())
            path.unlink()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    raw = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if "Traceback" in line or "TIFF" in line[:8]]
    assert not raw, raw
    return read


def test_sixty_mutated_files(tmp_path, capfd):
    read = through_all(tmp_path, capfd, count=60)
    assert 5 < read["restore"] < 55, "some can be read and some cannot"


@pytest.mark.soak
def test_a_thousand_mutated_files(tmp_path, capfd):
    read = through_all(tmp_path, capfd, count=1000)
    with capfd.disabled():
        sys.stdout.write(f"\nof 1000 mutated files every verb reads {read['restore']}\n")
