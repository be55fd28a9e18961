"""The stream of batches: alignment, exact resume, epochs, frames, noise, processes and bad files."""

import builtins
import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from drsn_jax.data.images.rgb import fit_frame
from drsn_jax.data.pairs.crops import CropLoader
from drsn_jax.data.pairs.folders import Pair, find_pairs, read_rgb
from drsn_jax.data.pairs.pipeline import make_batches
from drsn_jax.system.errors import InputError

tf = pytest.importorskip("tensorflow", reason="tf.data: pip install 'drsn-jax[data]'")

HEIGHT, WIDTH, CROP = 24, 40, 16


def _map_image(number, height=HEIGHT, width=WIDTH):
    """Red is the row, green the column, blue the number: a crop tells where it came from and how it was turned."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)


def _write_pairs(root, count, image_fn=_map_image, suffix="png"):
    for folder, offset in (("blur", 0), ("sharp", 100)):
        (root / folder).mkdir()
        for number in range(count):
            Image.fromarray(image_fn(number + offset)).save(root / folder / f"{number:03d}.{suffix}")
    return find_pairs(root)


@pytest.fixture
def pairs(tmp_path):
    """Seven pairs of map images; the blue of a sharp one is 100 above its blurred one's."""
    return _write_pairs(tmp_path, 7)


def _levels(images):
    """Convert [-1, 1] back to 0..255, which must be whole numbers."""
    levels = (images + 1.0) * 127.5
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    return np.rint(levels).astype(int)


def _take(pairs, **kwargs):
    return list(make_batches(pairs, **{"batch_size": 3, "crop_size": CROP, "seed": 5, "num_steps": 9, **kwargs}))


def _equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        for name in ("blurred", "sharp"):
            np.testing.assert_array_equal(batch[name], other[name])


def _numbers(batches):
    return [int(number) for batch in batches for number in _levels(batch["blurred"])[:, 0, 0, 2]]


# What a batch is


def test_batch_is_float32_in_network_range(pairs):
    batch = _take(pairs, num_steps=1)[0]
    assert sorted(batch) == ["blurred", "sharp"]
    for images in batch.values():
        assert images.shape == (3, CROP, CROP, 3)
        assert images.dtype == np.float32
        assert images.min() >= -1
        assert images.max() <= 1


def test_range_ends_are_black_and_white(tmp_path):
    pairs = _write_pairs(tmp_path, 1, lambda number: np.full((CROP, CROP, 3), 255 if number else 0, np.uint8))
    batch = _take(pairs, num_steps=1)[0]
    assert np.all(batch["blurred"] == -1)
    assert np.all(batch["sharp"] == 1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_both_images_get_the_same_window_and_turn(pairs, flip, rotate, cache):
    """Each crop is one of the 1, 2, 4 or 8 allowed turns of a window of the file, all of which occur, and both images share it."""
    seen = set()
    for batch in _take(pairs, flip=flip, rotate=rotate, cache=cache, num_steps=40):
        blurred, sharp = _levels(batch["blurred"]), _levels(batch["sharp"])
        np.testing.assert_array_equal(blurred[..., :2], sharp[..., :2])
        np.testing.assert_array_equal(blurred[..., 2] + 100, sharp[..., 2])
        for crop in blurred:
            top, left = crop[..., 0].min(), crop[..., 1].min()
            window = _map_image(crop[0, 0, 2])[top : top + CROP, left : left + CROP]
            turns = {
                (mirrored, quarter): np.rot90(window[:, ::-1] if mirrored else window, quarter)
                for mirrored, quarter in itertools.product(range(1 + flip), range(4 if rotate else 1))
            }
            found = [turn for turn, image in turns.items() if np.array_equal(image, crop)]
            assert len(found) == 1
            seen.add(found[0])
    assert len(seen) == (1 + flip) * (4 if rotate else 1)


def test_windows_reach_every_position(pairs):
    corners = [_levels(batch["sharp"])[:, 0, 0, :2] for batch in _take(pairs, flip=False, rotate=False, batch_size=10, num_steps=60)]
    corners = np.concatenate(corners)
    assert set(corners[:, 0]) == set(range(HEIGHT - CROP + 1))
    assert set(corners[:, 1]) == set(range(WIDTH - CROP + 1))


# Order


@pytest.mark.parametrize("cache", [False, True])
def test_resume_is_bitwise(pairs, cache):
    """Seven pairs in batches of three: steps 1 and 4 begin in the middle of an epoch."""
    options = {"noise_variance": (0.0, 0.01)}
    whole = _take(pairs, **options)
    for start in (0, 1, 4, 7):
        _equal(_take(pairs, start_step=start, num_steps=9 - start, cache=cache, **options), whole[start:])


def test_start_far_away_costs_nothing(pairs):
    first, second = _take(pairs, start_step=10**12, num_steps=2)
    _equal([second], _take(pairs, start_step=10**12 + 1, num_steps=1))
    assert not np.array_equal(first["sharp"], second["sharp"])


def test_every_epoch_is_a_permutation_and_they_differ(pairs):
    numbers = _numbers(_take(pairs, num_steps=14))
    epochs = [tuple(numbers[at : at + 7]) for at in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 1


def test_fewer_pairs_than_a_batch_wrap_around(pairs):
    numbers = _numbers(_take(pairs[:2], batch_size=5, num_steps=2))
    assert [sorted(numbers[at : at + 2]) for at in range(0, 10, 2)] == [[0, 1]] * 5
    assert _numbers(_take(pairs[:1], batch_size=2, num_steps=2)) == [0] * 4


def test_seed_decides(pairs):
    _equal(_take(pairs), _take(pairs))
    assert _numbers(_take(pairs)) != _numbers(_take(pairs, seed=6))
    assert len(_take(pairs, seed=2**63 - 1, num_steps=1)) == 1


def test_number_of_steps(pairs):
    assert _take(pairs, num_steps=0) == []
    assert len(_take(pairs, num_steps=2, start_step=5)) == 2
    endless = make_batches(pairs, batch_size=2, crop_size=CROP)
    assert len(list(itertools.islice(endless, 20))) == 20


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_rows(pairs, count):
    options = {"batch_size": 4, "num_steps": 5, "noise_variance": (0.001, 0.001)}
    whole = _take(pairs, **options)
    parts = [_take(pairs, process_index=rank, process_count=count, **options) for rank in range(count)]
    for step, batch in enumerate(whole):
        for name, images in batch.items():
            for rank in range(count):
                np.testing.assert_array_equal(parts[rank][step][name], np.split(images, count)[rank])


# Frames


@pytest.mark.parametrize("frame", ["resize", "half_crop"])
def test_fitted_frames_against_pillow(tmp_path, photograph, frame):
    image = photograph[:81, :120]
    pairs = _write_pairs(tmp_path, 1, lambda number: image if number else 255 - image)
    size = (CROP, CROP) if frame == "resize" else (60, 40)
    fitted = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    for batch in _take(pairs, frame=frame, flip=False, rotate=False):
        for crop in _levels(batch["sharp"]):
            windows = np.lib.stride_tricks.sliding_window_view(fitted, (CROP, CROP), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
            assert np.any(np.all(windows == crop, axis=(2, 3, 4)))


def test_resize_keeps_the_whole_frame(pairs):
    batch = _take(pairs[:1], frame="resize", flip=False, rotate=False, batch_size=1, num_steps=1)[0]
    np.testing.assert_array_equal(_levels(batch["blurred"])[0], fit_frame(_map_image(0), frame="resize", crop_size=CROP))


def test_crop_of_the_whole_image(pairs):
    images = _levels(_take(pairs, crop_size=HEIGHT, flip=False, rotate=False, num_steps=1)[0]["sharp"])
    assert np.all(images[:, 0, 0, 0] == 0)


# Formats


def _one_of_each(root, photograph):
    """Write pairs of all supported formats and modes; the two files of a pair are the same picture."""
    image = Image.fromarray(photograph[100:140, 200:250])
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    kinds = {
        "plain.png": (image, {}), "plain.jpg": (image, {"quality": 90}), "progressive.jpeg": (image, {"progressive": True}),
        "turned.jpg": (image, {"exif": exif}), "grey.png": (image.convert("L"), {}), "grey.jpg": (image.convert("L"), {}),
        "palette.png": (image.quantize(20), {}), "alpha.png": (image.convert("RGBA"), {}), "deep.png": (deep, {}),
        "cmyk.jpg": (image.convert("CMYK"), {}), "a.webp": (image, {}), "a.bmp": (image, {}), "a.tif": (image, {}), "a.ppm": (image, {}),
    }  # fmt: skip
    for folder in ("input", "target"):
        (root / folder).mkdir()
        for number, (name, (content, options)) in enumerate(kinds.items()):
            content.save(root / folder / f"{number:02d}_{name}", **options)
    return find_pairs(root)


def test_every_format_that_is_read_also_trains(tmp_path, photograph):
    pairs = _one_of_each(tmp_path, photograph)
    batches = _take(pairs, batch_size=1, num_steps=len(pairs), frame="crop", crop_size=40, flip=False, rotate=False)
    crops = [_levels(batch["sharp"])[0] for batch in batches]
    for pair in pairs:
        whole = read_rgb(pair.sharp).astype(int)
        windows = [whole[top : top + 40, left : left + 40] for top in range(len(whole) - 39) for left in range(whole.shape[1] - 39)]
        # TensorFlow and Pillow may carry different versions of libjpeg.
        assert any(np.abs(crop - window).max() <= 2 * (pair.sharp.suffix.startswith(".jp")) for crop in crops for window in windows)


# Noise


def test_noise_has_the_variance_asked_for(tmp_path):
    grey = np.full((64, 64, 3), 128, np.uint8)
    pairs = _write_pairs(tmp_path, 1, lambda number: grey)
    batch = _take(pairs, crop_size=64, batch_size=8, num_steps=1, noise_variance=(0.002, 0.002))[0]
    assert np.all(_levels(batch["sharp"]) == 128)
    noise = _levels(batch["blurred"]) / 255 - 128 / 255
    assert abs(noise.mean()) < 1e-3
    np.testing.assert_allclose(noise.var(axis=(1, 2, 3)), 0.002, rtol=0.05)
    assert np.abs(np.corrcoef(noise.reshape(8, -1)) - np.eye(8)).max() < 0.05


def test_the_standard_deviation_of_the_noise_is_uniform_in_its_range(tmp_path):
    pairs = _write_pairs(tmp_path, 1, lambda number: np.full((48, 48, 3), 128, np.uint8))
    batch = _take(pairs, crop_size=48, batch_size=200, num_steps=1, noise_variance=(0.001, 0.005))[0]
    deviations = (_levels(batch["blurred"]) / 255).std(axis=(1, 2, 3))
    low, high = 0.001**0.5, 0.005**0.5
    assert deviations.min() > 0.96 * low
    assert deviations.max() < 1.04 * high
    quartiles = low + (high - low) * np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(np.quantile(deviations, [0.25, 0.5, 0.75]), quartiles, atol=0.003)


def test_a_share_of_all_crops_has_noise(tmp_path):
    pairs = _write_pairs(tmp_path, 1, lambda number: np.full((48, 48, 3), 128, np.uint8))
    batch = _take(pairs, crop_size=48, batch_size=200, num_steps=1, noise_variance=(0.001, 0.005), noise_share=0.25)[0]
    assert 0.17 < (np.ptp(batch["blurred"], axis=(1, 2, 3)) > 0).mean() < 0.33


def test_noise_leaves_the_rest_of_the_stream_alone(pairs):
    for clean, noisy in zip(_take(pairs), _take(pairs, noise_variance=(0.0, 0.01)), strict=True):
        np.testing.assert_array_equal(clean["sharp"], noisy["sharp"])
        assert not np.array_equal(clean["blurred"], noisy["blurred"])


# What goes wrong


def _refused(pairs, **kwargs):
    with pytest.raises(InputError) as caught:
        _take(pairs, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "missing"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_damaged_file_is_named_when_its_turn_comes(tmp_path, photograph, damage, suffix):
    pairs = _write_pairs(tmp_path, 5, lambda number: photograph[:64, :64], suffix)
    culprit = pairs[3].sharp
    contents = culprit.read_bytes()
    culprit.write_bytes({"cut": contents[: len(contents) // 2], "text": b"text", "empty": b"", "missing": b""}[damage])
    if damage == "missing":
        culprit.unlink()
    message = _refused(pairs)
    assert str(culprit) in message
    assert {"cut": "cut short", "text": "not an image", "empty": "0 bytes", "missing": "does not exist"}[damage] in message


def test_damaged_file_stops_its_own_batch_without_a_word_from_tensorflow(tmp_path, pairs, capfd):
    whole = _take(pairs, batch_size=1, num_steps=7)
    pairs[3].sharp.write_bytes(b"text")
    stream = make_batches(pairs, batch_size=1, crop_size=CROP, seed=5)
    before = list(itertools.takewhile(lambda number: number != 3, _numbers(whole)))
    _equal([next(stream) for _ in before], whole[: len(before)])
    capfd.readouterr()
    with pytest.raises(InputError, match="not an image"):
        next(stream)
    assert capfd.readouterr().err == ""


def test_frames_that_do_not_fit(tmp_path, pairs):
    assert "smaller than the crop of 25" in _refused(pairs, crop_size=25)
    assert "smaller than the crop of 16" in _refused(pairs, frame="half_crop")
    Image.fromarray(_map_image(0, HEIGHT, WIDTH + 1)).save(tmp_path / "odd.png")
    assert "give both one size" in _refused([Pair("odd", pairs[0].blurred, tmp_path / "odd.png")])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 3, "process_count": 2}, "--config.batch_size=4"),
        ({"process_index": 1}, "process_index=1"),
        ({"process_count": 0}, "process_count=0"),
        ({"crop_size": 0}, "crop_size=0"),
        ({"start_step": -1}, "start_step=-1"),
        ({"num_steps": -1}, "num_steps=-1"),
        ({"prefetch": -1}, "prefetch=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"frame": "whole"}, "resize, half_crop, crop"),
        ({"noise_variance": (0.2, 0.1)}, "0 <= low <= high"),
        ({"noise_variance": (-0.1, 0.1)}, "0 <= low <= high"),
        ({"noise_variance": (0.0, float("nan"))}, "0 <= low <= high"),
        ({"cache": True, "cache_limit_bytes": 100}, "Switch the cache off"),
    ],
)
def test_impossible_arguments_are_refused_at_once(pairs, wrong, told):
    with pytest.raises(InputError, match=r"\A[^\n]*\Z") as caught:
        make_batches(pairs, **{"batch_size": 4, "crop_size": CROP, **wrong})
    assert told in str(caught.value)


def test_no_pairs():
    assert "at least one" in _refused([])


def test_without_tensorflow(pairs, monkeypatch):
    real_import = builtins.__import__

    def no_tensorflow(name, *args, **kwargs):
        if name.split(".")[0] == "tensorflow":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tensorflow)
    message = _refused(pairs)
    assert "pip install 'drsn-jax[data]'" in message
    assert "--config.data=resident" in message


def test_cached_frames_are_decoded_once(pairs, monkeypatch):
    decoded = []

    def counting(path):
        decoded.append(path)
        return read_rgb(path)

    monkeypatch.setattr("drsn_jax.data.pairs.pipeline._decode_rgb", counting)
    stream = make_batches(pairs, batch_size=7, crop_size=CROP, cache=True, prefetch=0)
    for _ in range(12):
        next(stream)
    assert set(decoded) == {path for pair in pairs for path in (pair.blurred, pair.sharp)}
    # A pair may be decoded by two threads at once at the turn of an epoch, never again later.
    assert len(decoded) < 4 * len(pairs)


def test_closing_the_stream_lets_go_of_the_cache(pairs, monkeypatch):
    loaders = []
    monkeypatch.setattr(
        "drsn_jax.data.pairs.pipeline.CropLoader", lambda *args, **kwargs: loaders.append(CropLoader(*args, **kwargs)) or loaders[0]
    )
    stream = make_batches(pairs, batch_size=7, crop_size=CROP, num_steps=3, cache=True)
    next(stream)
    assert len(loaders[0].frames) == 7
    assert [batch["sharp"].shape[0] for batch in stream] == [7, 7]
    assert not loaders[0].frames


def test_errors_of_ours_keep_their_name(pairs, monkeypatch):
    """Only what the user can mend becomes an InputError."""

    def broken(path):
        raise KeyError("ours")

    monkeypatch.setattr("drsn_jax.data.pairs.pipeline._decode_rgb", broken)
    with pytest.raises(tf.errors.OpError, match="KeyError: 'ours'"):
        _take(pairs)


def test_a_process_ends_with_a_stream_still_open(tmp_path, photograph):
    """TensorFlow's threads call into Python, and once waited for ever for an interpreter that was going down."""
    for side in ("blur", "sharp"):
        (tmp_path / side).mkdir()
        Image.fromarray(photograph).save(tmp_path / side / "a.png")
    program = "from drsn_jax.data.pairs.folders import find_pairs\nfrom drsn_jax.data.pairs.pipeline import make_batches\n"
    program += f"stream = make_batches(find_pairs({str(tmp_path)!r}), batch_size=2, crop_size=64)\nnext(stream)\nprint('open')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "open\n")
