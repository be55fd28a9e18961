"""Frames averaged on the device against the averages of `averaging`, traced back to where they were cut; what a folder may hold."""

import hashlib
from functools import partial

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from drsn_jax.config.files import load_config
from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.making.averaging import average_frames, gamma_response
from drsn_jax.data.making.clip_folders import find_sharp, measure_speed, read_clips
from drsn_jax.data.synthesis.clips import make_clip, make_clip_batch_fn
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


def read_clip(*folders, crop_size=8, **options):
    return read_clips(folders, crop_size=crop_size, **options)[0]


def frames_of(clip):
    """Return the frames as they were read."""
    bank = clip.frames
    sheet = np.asarray(bank.pixels).reshape(len(bank.pixels), -1, 3)
    places = zip(bank.tops, bank.lefts, bank.heights, bank.widths, strict=True)
    return [sheet[top : top + height, left : left + width] for top, left, height, width in places]


def test_every_crop_is_an_average_of_consecutive_frames_around_its_sharp_one(tmp_path):
    clip = read_clip(write_frames(tmp_path / "clip", [1, 2, 3, 4, 5, 9, 10, 11]), crop_size=8)
    frames = np.stack(frames_of(clip))
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
    seen = {i for crop in sharp for i, frame in enumerate(frames_of(clip)) if _holds(frame, crop)}
    assert seen == set(range(6))


def _holds(frame, crop):
    windows = np.lib.stride_tricks.sliding_window_view(frame, crop.shape)
    return (windows == crop).all((-3, -2, -1)).any()


def test_blurred_and_sharp_are_turned_alike():
    ramp = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None] * 10 + np.arange(16, dtype=np.uint8)[:, None, None], (3, 16, 16, 3))
    clip = make_clip(list(ramp), np.array([3, 2, 1]))
    blurred, sharp = batches_of(clip, batch_size=64, averaged=(3, 3), flip=True, rotate=True)
    np.testing.assert_allclose(blurred, sharp, atol=1)
    assert len({crop.tobytes() for crop in sharp - sharp.min((1, 2, 3), keepdims=True)}) == 8, "every turn and mirror image"


def test_noise_is_on_the_blurred_side_alone():
    clip = make_clip(list(np.full((3, 16, 16, 3), 128, np.uint8)), np.array([3, 2, 1]))
    blurred, sharp = batches_of(clip, averaged=(2, 2), noise_variance=(0.01, 0.01))
    assert (sharp == 128).all()
    assert blurred.std() == pytest.approx(25.5, rel=0.05)


def test_the_same_key_gives_the_same_batch(tmp_path):
    clip = read_clip(write_frames(tmp_path / "clip", range(6)), crop_size=8)
    take = partial(batches_of, clip, flip=True, rotate=True)
    np.testing.assert_array_equal(take(seed=1), take(seed=1))
    assert (take(seed=1)[0] != take(seed=2)[0]).any()


def test_the_windows_of_a_seed_are_those_of_older_workdirs():
    """The sharp sides are compared, because no sum has rounded them. The digest is from the time when all frames were in one array."""
    frames = np.zeros((12, 20, 24, 3), np.uint8)
    frames[..., 0], frames[..., 1], frames[..., 2] = np.arange(12)[:, None, None], np.arange(20)[:, None], np.arange(24)
    clip = make_clip(list(frames), np.array([8, 7, 6, 5, 4, 3, 2, 1, 4, 3, 2, 1]))
    _, sharp = batches_of(clip, batch_size=64, averaged=(1, 6), flip=True, rotate=True)
    assert hashlib.sha256(sharp.tobytes()).hexdigest()[:16] == "9c1137897a66d97a"


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
    whole = np.stack(frames_of(read_clip(folder)))
    (folder / "000004.png").write_bytes((folder / "000004.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"000004\.png"):
        open_mixed(tmp_path, frames_dir=folder)
    data = open_mixed(tmp_path, frames_dir=folder, on_bad_image="skip", frames_share=1)
    warning = capsys.readouterr().err
    assert "000004.png" in warning
    assert "1 of 12 frames of the clip so far" in warning
    next(iter(data.stream_fn(0, 1)))
    clip = read_clip(folder, crop_size=8, bad_images_fn=lambda total: BadImages(total, what="frames", skip=True))
    np.testing.assert_array_equal(frames_of(clip), np.delete(whole, 4, axis=0))
    assert list(clip.following) == [4, 3, 2, 1, 7, 6, 5, 4, 3, 2, 1], "no average reaches across"


def test_what_a_folder_may_hold(tmp_path):
    with pytest.raises(InputError, match="no frames with numbered names"):
        read_clip(tmp_path, crop_size=8)
    folder = write_frames(tmp_path / "clip", [1, 2])
    with pytest.raises(InputError, match="at least as large as the crop of 32"):
        read_clip(folder, crop_size=32)
    with pytest.raises(InputError, match="frames_averaged=1,5 averages more frames than the longest run"):
        read_clip(folder, crop_size=8, averaged=(1, 5))
    write_frames(folder, [3], size=(12, 12))
    with pytest.raises(InputError, match=r"000003\.png is 12x12"):
        read_clip(folder, crop_size=8)
    (folder / "000003.png").rename(folder / "title.png")
    with pytest.raises(InputError, match="with numbered names"):
        read_clip(folder, crop_size=8)


# Odd windows, soft frames, several folders


def ramps(number, speed):
    """Return a step of light that moves right by `speed` pixels per frame, with equal rows."""
    place = np.arange(80)[None] - speed * np.arange(number)[:, None] - 32
    return np.broadcast_to(np.rint(255 / (1 + np.exp(-place / 2.0))).astype(np.uint8)[:, None, :, None], (number, 48, 80, 3))


def test_the_middle_of_an_odd_window_is_where_an_even_motion_is_in_the_mean():
    """A moving step: its mean position is that of the sharp one if light gained on one side equals light lost on the other."""
    clip = make_clip(list(ramps(9, 2)), np.arange(9, 0, -1, dtype=np.int32))

    def offsets(**options):
        pairs = zip(*batches_of(clip, batch_size=48, crop_size=48, averaged=(2, 7), **options), strict=True)
        light = [[(x[8, :, 0] / 255.0) ** 2.2 for x in pair] for pair in pairs]
        return np.array([sharp.sum() - blurred.sum() for blurred, sharp in light if blurred[0] < 0.001 and blurred[-1] > 0.999])

    odd, all_numbers = offsets(odd=True), offsets()
    assert len(odd) > 3
    assert np.abs(odd).max() < 0.05
    assert np.abs(all_numbers).max() > 0.9, "half a frame late for even numbers"


@pytest.mark.parametrize(("averaged", "expected"), [((2, 7), {3, 5, 7}), ((5, 5), {5}), ((1, 4), {1, 3})])
def test_odd_numbers_alone_are_drawn_and_each_is(averaged, expected):
    """One white frame among black ones: the mean shows the number of frames."""
    frames = np.zeros((15, 8, 8, 3), np.uint8)
    frames[7] = 255
    blurred, _ = batches_of(make_clip(list(frames), np.arange(15, 0, -1, dtype=np.int32)), batch_size=128, averaged=averaged, odd=True)
    light = {round(1 / (value / 255) ** 2.2) for value in blurred[:, 0, 0, 0].tolist() if value}
    assert light == expected


def test_a_range_without_an_odd_number_is_refused():
    with pytest.raises(InputError, match="frames_averaged=4,4 with frames_odd=True contains no odd number"):
        batches_of(make_clip(list(np.zeros((5, 8, 8, 3), np.uint8)), np.arange(5, 0, -1, dtype=np.int32)), averaged=(4, 4), odd=True)


def write_clip(folder, images):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(np.ascontiguousarray(image)).save(folder / f"{number:03d}.png")
    return folder


def test_windows_with_a_soft_frame_in_the_middle_are_left_out(tmp_path, rng):
    frames = rng.integers(0, 200, (9, 16, 24, 3), dtype=np.uint8)
    for i in (3, 4):
        frames[i] = frames[i].mean((0, 1)).astype(np.uint8) + rng.integers(0, 20, (16, 24, 3), dtype=np.uint8)
    folder = write_clip(tmp_path / "clip", frames)
    seen = {}
    for sharpness in (0.0, 0.5):
        _, sharp = batches_of(read_clip(folder, averaged=(1, 3), sharpness=sharpness), batch_size=128, averaged=(1, 3))
        seen[sharpness] = {i for crop in sharp for i, frame in enumerate(frames) if _holds(frame, crop)}
    assert seen[0.0] == set(range(9))
    assert seen[0.5] == set(range(9)) - {3, 4}
    with pytest.raises(InputError, match=r"frames_sharpness=0.5 leaves no window of 3 frames in .*short.*\. Use a lower"):
        read_clip(write_clip(tmp_path / "short", frames[[2, 3, 5]]), averaged=(3, 3), sharpness=0.5)


def test_a_soft_frame_is_softer_than_its_clip_or_than_its_neighbours():
    """Filmed frames and three softer ones between every two, then a darker part of the same kind, then a part that moves fast."""
    filmed = [100, 80, 75, 80] * 4 + [70, 56, 52, 56] * 4 + [40] * 6
    sharp = find_sharp([float(value) for value in filmed], share=0.9)
    assert set(np.flatnonzero(sharp)) == {*range(0, 16, 4), *range(20, 32, 4)}, "but for the one that is beside the brighter part"
    assert find_sharp([5.0, 5.0, 4.6], share=0.9).all()
    assert find_sharp([5.0, 0.0], share=0.0).all()


def moving(number, size, shift, seed):
    """Return a smooth random picture that moves to the right by `speed` pixels per frame."""
    picture = np.random.default_rng(seed).integers(0, 256, (size[0] // 4, size[1] // 4, 3), np.uint8)
    picture = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))
    return [np.roll(picture, shift * i, axis=1) for i in range(number)]


def test_speed_is_pixels_a_frame_and_gaps_count_for_none():
    fast, still = (moving(12, (48, 64), shift, 0) for shift in (1, 0))
    following = np.arange(12, 0, -1, dtype=np.int32)
    assert measure_speed(fast, following) == pytest.approx(1, rel=0.35)
    assert measure_speed(still, following) == 0
    jump = [*still[:6], *moving(6, (48, 64), 0, 1)]
    assert measure_speed(jump, np.array([6, 5, 4, 3, 2, 1] * 2, np.int32)) == 0
    assert measure_speed(jump, following) > 0.5


def test_clips_of_different_sizes_are_drawn_by_their_motion(tmp_path):
    """Write a short moving clip, a long one with half the motion per frame, and a static one, of three sizes."""
    write_clip(tmp_path / "clips" / "a", moving(8, (48, 64), 2, 0))
    write_clip(tmp_path / "clips" / "b", moving(32, (40, 40), 1, 1))
    write_clip(tmp_path / "clips" / "c", moving(40, (32, 64), 0, 2))
    clip, shares = read_clips([tmp_path / "clips"], crop_size=16, averaged=(1, 3))
    assert [name[-1] for name in shares] == ["a", "b", "c"], "a folder of folders is replaced by these"
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[str(tmp_path / "clips" / "c")] == 0
    assert 0.2 < shares[str(tmp_path / "clips" / "a")] < 0.5
    blurred, sharp = batches_of(clip, batch_size=256, crop_size=16, averaged=(1, 1))
    np.testing.assert_allclose(blurred, sharp, atol=1)
    frames = frames_of(clip)
    places = [next(i for i, frame in enumerate(frames) if _holds(frame, crop)) for crop in sharp]
    counts = np.bincount(np.digitize(places, [8, 40]), minlength=3) / 256
    np.testing.assert_allclose(counts, list(shares.values()), atol=0.1)


def test_several_folders_are_named_with_commas(tmp_path):
    for name, value in (("a", 255), ("b", 255)):
        write_clip(tmp_path / "more" / name, [np.full((48, 48, 3), value, np.uint8)] * 3)
    data = open_mixed(tmp_path, frames_dir=f"{tmp_path / 'more' / 'a'},{tmp_path / 'more' / 'b'}", frames_odd=True)
    assert "6 frames, windows 50% of " in data.description, "without motion all have the same weight"
    assert sorted(np.asarray(next(iter(data.stream_fn(0, 1)))["sharp"])[:, 0, 0, 0]) == [-1] * 8 + [1] * 8
    with pytest.raises(InputError, match="gone contains no frames"):
        open_mixed(tmp_path, frames_dir=f"{tmp_path / 'more' / 'a'},{tmp_path / 'gone'}")


def test_a_window_beside_a_smaller_clip_is_of_its_own_clip_alone():
    """The last window of a clip is cut together with frames of the next one, which have the weight 0."""
    frames = [np.full((40, 40, 3), 100, np.uint8)] * 4 + [np.full((16, 16, 3), 200, np.uint8)] * 3
    clip = make_clip(frames, np.array([4, 3, 2, 1, 3, 2, 1], np.int32))
    blurred, sharp = batches_of(clip, batch_size=64, crop_size=16, averaged=(1, 3))
    assert {tuple(np.unique(x)) for x in blurred} == {(100,), (200,)}
    np.testing.assert_allclose(blurred, sharp, atol=1)
