"""Frames averaged on the device against the averages of `averaging`, traced back to where they were cut; what a folder may hold."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from drsn_jax.config.files import load_config
from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.making.averaging import average_frames, gamma_response
from drsn_jax.data.synthesis.clips import Clip, make_clip_batch_fn, read_clip
from drsn_jax.run.data import open_data
from drsn_jax.system.errors import InputError
from drsn_jax.training.sharding import make_mesh


def write_frames(folder, numbers, size=(24, 16), seed=0):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in numbers:
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(folder / f"{number:06d}.png")
    return folder


def batches_of(clip, *, seed=0, **options):
    options = {"batch_size": 16, "crop_size": 8, "averaged": (1, 4), "noise_variance": (0.0, 0.0), "flip": False, "rotate": False} | options
    batch = jax.jit(make_clip_batch_fn(**options))(clip, jax.random.key(seed))
    return [np.rint((np.asarray(batch[name]) + 1) * 127.5).astype(np.uint8) for name in ("blurred", "sharp")]


def test_every_crop_is_an_average_of_consecutive_frames_around_its_sharp_one(tmp_path):
    clip = read_clip(write_frames(tmp_path / "clip", [1, 2, 3, 4, 5, 9, 10, 11]), crop_size=8)
    frames = np.asarray(clip.frames)
    places = {frames[i, y : y + 8, x : x + 8].tobytes(): (i, y, x) for i in range(8) for y in range(9) for x in range(17)}
    expected = {
        (first, n): average_frames(list(frames[first : first + n]), gamma_response(2.2))
        for n in (1, 2, 3, 4)
        for first in range(8 - n + 1)
        if first + n <= 5 or first >= 5  # none across the gap
    }
    numbers = set()
    for blurred, sharp in zip(*batches_of(clip, batch_size=64), strict=True):
        index, y, x = places[sharp.tobytes()]
        fits = [
            n
            for n in (1, 2, 3, 4)
            if (index - n // 2, n) in expected
            and np.abs(expected[index - n // 2, n][y : y + 8, x : x + 8].astype(int) - blurred).max() <= 1  # float32 rounds elsewhere
        ]
        assert len(fits) == 1
        numbers.update(fits)
    assert numbers == {1, 2, 3, 4}


def test_the_last_and_the_first_frames_are_reached(tmp_path):
    clip = read_clip(write_frames(tmp_path / "clip", range(6)), crop_size=8)
    _, sharp = batches_of(clip, batch_size=64, averaged=(1, 1))
    seen = {i for crop in sharp for i, frame in enumerate(np.asarray(clip.frames)) if _holds(frame, crop)}
    assert seen == set(range(6))


def _holds(frame, crop):
    windows = np.lib.stride_tricks.sliding_window_view(frame, crop.shape)
    return (windows == crop).all((-3, -2, -1)).any()


def test_blurred_and_sharp_are_turned_alike():
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None] * 10 + np.arange(16, dtype=np.uint8)[:, None, None], (3, 16, 16, 3))
    clip = Clip(jnp.asarray(ramp), jnp.array([3, 2, 1]))
    blurred, sharp = batches_of(clip, batch_size=64, averaged=(3, 3), flip=True, rotate=True)
    np.testing.assert_allclose(blurred, sharp, atol=1)
    assert len({crop.tobytes() for crop in sharp - sharp.min((1, 2, 3), keepdims=True)}) == 8, "every turn and mirror image"


def test_noise_is_on_the_blurred_side_alone():
    clip = Clip(jnp.full((3, 16, 16, 3), 128, jnp.uint8), jnp.array([3, 2, 1]))
    blurred, sharp = batches_of(clip, averaged=(2, 2), noise_variance=(0.01, 0.01))
    assert (sharp == 128).all()
    assert blurred.std() == pytest.approx(25.5, rel=0.05)


def test_the_same_key_gives_the_same_batch(tmp_path):
    clip = read_clip(write_frames(tmp_path / "clip", range(6)), crop_size=8)
    take = partial(batches_of, clip, flip=True, rotate=True)
    np.testing.assert_array_equal(take(seed=1), take(seed=1))
    assert (take(seed=1)[0] != take(seed=2)[0]).any()


def open_mixed(tmp_path, **changes):
    """Black photographs and a white clip, on the eight devices of this process."""
    for name, value, number in (("photos", 0, 2), ("clip", 255, 3)):
        (tmp_path / name).mkdir(exist_ok=True)
        for i in range(number):
            Image.new("RGB", (48, 48), (value,) * 3).save(tmp_path / name / f"{i}.png")
    changes = {"data": "photos", "train_dir": tmp_path / "photos", "frames_dir": tmp_path / "clip", "frames_averaged": "1,3"} | changes
    changes |= {"hold_out_every": 2, "noise_variance": "0,0", "blur_length": "0,0", "batch_size": 16}
    return open_data(load_config("default", tiny.options(**changes)), mesh=make_mesh())


def test_a_batch_holds_the_share_of_the_clip_anywhere_in_it(tmp_path):
    first, second = (np.asarray(batch["sharp"])[:, 0, 0, 0] for batch in open_mixed(tmp_path, frames_share=0.25).stream_fn(0, 2))
    assert sorted(first) == sorted(second) == [-1] * 12 + [1] * 4
    assert (first != second).any(), "in another order each time"


def test_a_share_that_is_no_image_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"frames_share=0.01 of a batch of 16 is 0 images; .*--config.frames_share=0\."):
        open_mixed(tmp_path, frames_share=0.01)
    with pytest.raises(InputError, match=r"frames_share=0.99 of a batch of 16 is 16 images; .*--config.frames_share=1\."):
        open_mixed(tmp_path, frames_share=0.99)


def test_a_damaged_frame_stops_or_is_missing(tmp_path, capsys):
    folder = write_frames(tmp_path / "damaged", range(12), size=(48, 48))
    whole = np.asarray(read_clip(folder, crop_size=8).frames)
    (folder / "000004.png").write_bytes((folder / "000004.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"000004\.png"):
        open_mixed(tmp_path, frames_dir=folder)
    data = open_mixed(tmp_path, frames_dir=folder, on_bad_image="skip", frames_share=1)
    warning = capsys.readouterr().err
    assert "000004.png" in warning
    assert "1 of 12 frames of the clip so far" in warning
    next(iter(data.stream_fn(0, 1)))
    clip = read_clip(folder, crop_size=8, bad_images_fn=lambda total: BadImages(total, what="frames", skip=True))
    np.testing.assert_array_equal(clip.frames, np.delete(whole, 4, axis=0))
    assert list(clip.following) == [4, 3, 2, 1, 7, 6, 5, 4, 3, 2, 1], "no average reaches across"


def test_what_a_folder_may_hold(tmp_path):
    with pytest.raises(InputError, match="no frames named by their numbers"):
        read_clip(tmp_path, crop_size=8)
    folder = write_frames(tmp_path / "clip", [1, 2])
    with pytest.raises(InputError, match="hold a crop of 32"):
        read_clip(folder, crop_size=32)
    with pytest.raises(InputError, match="averages up to 5 frames"):
        read_clip(folder, crop_size=8, averaged=(1, 5))
    write_frames(folder, [3], size=(12, 12))
    with pytest.raises(InputError, match=r"000003\.png is 12x12"):
        read_clip(folder, crop_size=8)
    (folder / "000003.png").rename(folder / "title.png")
    with pytest.raises(InputError, match="named by their numbers"):
        read_clip(folder, crop_size=8)
