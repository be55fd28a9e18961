"""Averages against the formula stated anew, GoPro's own pairs, and the choice of windows on scenes made for it."""

import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.making.averaging import Window, average_frames, average_windows, gamma_response, read_response
from drsn_jax.data.making.video import Frame
from drsn_jax.data.making.windows import choose_windows, find_cuts, measure_motion, travelled
from drsn_jax.system.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"
ASKED = {"frames": (7, 13), "stride": None, "cut_threshold": 3.0, "min_motion": 2.0, "exclude": (), "seed": 0, "scene": "s"}


def texture(rng, height=96, width=400):
    """Smooth and colourful: neighbouring pixels are alike, as in photographs."""
    coarse = rng.normal(size=(height // 8, width // 8, 3))
    smooth = np.kron(coarse, np.ones((8, 8, 1)))
    for axis in (0, 1):
        for _ in range(3):
            smooth = sum(np.roll(smooth, i, axis) for i in range(-3, 4)) / 7
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def panning(picture, count, *, speed=2, width=160, start=0):
    return [picture[:, start + speed * i : start + speed * i + width] for i in range(count)]


def measure(images, lag=3):
    return measure_motion((Frame(image) for image in images), lag=lag)


def chosen(images, **changes):
    return choose_windows(measure(images), **(ASKED | changes))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 13), st.sampled_from([1.0, 1.8, 2.2]))
def test_the_average_is_the_formula(seed, n, gamma):
    frames = np.random.default_rng(seed).integers(0, 256, (n, 5, 4, 3), np.uint8)
    exact = ((frames.astype(np.longdouble) ** gamma).sum(0) / n) ** (1 / np.longdouble(gamma))
    assert np.abs(average_frames(list(frames), gamma_response(gamma)) - exact).max() <= 0.5 + 1e-9


def test_light_is_averaged_not_values():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert average_frames([black, white], gamma_response(2.2)).tolist() == np.full((2, 2, 3), 186).tolist()  # 255 * 0.5^(1/2.2)
    assert average_frames([black, white, white], gamma_response(1.0)).tolist() == np.full((2, 2, 3), 170).tolist()


def test_the_average_of_equal_frames_is_the_frame_for_any_response(rng, tmp_path):
    np.save(tmp_path / "curve.npy", np.cumsum(rng.uniform(0.1, 9, 256)) - 50)
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    for response in (gamma_response(2.2), gamma_response(1), read_response(tmp_path / "curve.npy")):
        for n in (1, 2, 7, 13):
            np.testing.assert_array_equal(average_frames([every] * n, response), every)


@pytest.mark.parametrize("separator", [",", "\n", ", "])
def test_a_measured_response_decides_on_the_average(tmp_path, separator):
    light = [Fraction(value * value + value, 3) for value in range(256)]
    (tmp_path / "curve.csv").write_text(separator.join(str(float(x)) for x in light))
    response = read_response(tmp_path / "curve.csv")
    for values in ((0, 255), (10, 11, 200), (3, 3, 4, 250, 90)):
        mean = sum(light[value] for value in values) / len(values)
        below = max(value for value in range(256) if light[value] <= mean)
        nearer = below + (mean - light[below] > light[min(below + 1, 255)] - mean)
        frames = [np.full((1, 1, 3), value, np.uint8) for value in values]
        assert average_frames(frames, response).tolist() == [[[nearer] * 3]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("short.csv", "1,2,3", "holds 3 numbers"),
        ("falling.csv", ",".join(map(str, range(256, 0, -1))), "increasing"),
        ("level.csv", ",".join(["1"] * 256), "increasing"),
        ("nan.csv", ",".join(["nan", *map(str, range(255))]), "finite"),
        ("words.csv", "value,light", "cannot be read"),
        ("empty.csv", "", "cannot be read"),
        ("no.npy", "hello", "cannot be read"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_bad_responses(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=says) as raised:
        read_response(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert "256 increasing numbers" in str(raised.value)


@pytest.mark.parametrize("gamma", [0, -1, 11, float("nan")])
def test_bad_gamma(gamma):
    with pytest.raises(InputError, match=r"2\.2"):
        gamma_response(gamma)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(2, 9)), min_size=1, max_size=6, unique=True), st.integers(0, 3))
def test_windows_in_one_reading_are_those_made_one_by_one(spans, spare):
    windows = [Window(first, n, 1.0, None) for first, n in spans]
    images = np.random.default_rng(0).integers(0, 256, (max(w.first + w.n for w in windows) + spare, 3, 4, 3), np.uint8)
    first = min(w.first for w in windows)
    made = list(average_windows((Frame(image) for image in images[first:]), windows, response=gamma_response(2.2), first=first))
    assert sorted(window for window, _, _ in made) == sorted(windows)
    for window, blurred, sharp in made:
        np.testing.assert_array_equal(blurred, average_frames(list(images[window.first : window.first + window.n]), gamma_response(2.2)))
        np.testing.assert_array_equal(sharp, images[window.first + window.n // 2])


def test_few_frames_are_held_at_a_time():
    alive, most = [], 0

    class Counted(np.ndarray):
        pass

    def frames():
        nonlocal most
        for i in range(200):
            pixels = np.full((2, 2, 3), i, np.uint8).view(Counted)
            alive.append(weakref.ref(pixels))
            most = max(most, sum(ref() is not None for ref in alive))
            yield Frame(pixels)
            del pixels

    windows = [Window(first, 7, 1.0, None) for first in (0, 7, 100, 150)]
    made = average_windows(frames(), windows, response=gamma_response(2.2))
    assert sum(1 for _ in made) == 4
    assert most <= 9  # a window, the one that comes, and the last one's sharp frame


def test_frames_that_end_too_early_are_the_users_to_know():
    frames = (Frame(np.zeros((2, 2, 3), np.uint8)) for _ in range(5))
    with pytest.raises(InputError, match="source has changed"):
        list(average_windows(frames, [Window(0, 7, 1.0, None)], response=gamma_response(2.2)))


def test_the_sharp_frame_is_the_centre_and_for_even_n_the_later_one():
    assert [Window(10, n, 0.0, None).sharp for n in (7, 8, 9)] == [13, 14, 14]


@pytest.mark.parametrize("name", ["165", "178", "198"])
def test_gopros_own_pairs_come_out(name):
    clip, pairs = SHARED / "gopro240_GOPR0477_11_00", SHARED / "gopro_train_scenes"
    if not clip.is_dir() or not pairs.is_dir():
        pytest.skip("needs shared/data: the raw GoPro clip and the pairs made of it")
    window = Window(int(name), 8, 0.0, None)
    frames = [read_rgb(clip / f"{window.first + i + 1:06d}.jpg") for i in range(8)]
    blurred, sharp = (read_rgb(pairs / side / f"GOPR0477_11_00_st_frame-{name}_n_avg-8.png") for side in ("blur", "sharp"))

    def psnr(one, other):
        return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))

    assert psnr(average_frames(frames, gamma_response(2.2)), blurred) > 48.5  # the frames at hand are JPEG
    assert psnr(average_frames(frames, gamma_response(1.0)), blurred) < 45
    sharpest = max(range(8), key=lambda i: psnr(frames[i], sharp))
    assert window.first + sharpest == window.sharp


@pytest.mark.parametrize("speed", [1, 2, 3])
def test_motion_is_measured_in_pixels(rng, speed):
    motion = measure(panning(texture(rng), 9, speed=speed))
    assert travelled(motion, 0, 9) == pytest.approx(8 * speed, rel=0.35)


def test_noise_is_no_motion_and_motion_is_seen_through_it(rng):
    def noisy(images):
        return [np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8) for image in images]

    picture = texture(rng)
    assert travelled(measure(noisy([picture] * 9)), 0, 9) < 1
    assert travelled(measure(noisy(panning(picture, 9, speed=1))), 0, 9) > 4


def test_a_blank_or_tiny_picture_does_not_move():
    assert travelled(measure([np.full((48, 64, 3), 9, np.uint8)] * 8), 0, 8) == 0
    assert travelled(measure([np.full((1, 1, 3), 9, np.uint8)] * 8), 0, 8) == 0


def test_a_cut_is_found_where_it_is_and_a_start_of_motion_is_not_one(rng):
    one, other = texture(rng), texture(rng)
    still, pan = [one[:, :160]] * 12, panning(one, 12, speed=3)
    assert find_cuts(measure(panning(one, 12) + panning(other, 12)).levels, threshold=3) == [12]
    assert find_cuts(measure(still + [other[:, :160]] * 12).levels, threshold=3) == [12]
    assert find_cuts(measure(panning(one, 9) + panning(other, 3) + panning(one, 9, start=99)).levels, threshold=3) == [9, 12]
    assert find_cuts(measure(still + pan + [pan[-1]] * 12).levels, threshold=3) == []
    assert find_cuts([], threshold=3) == []


def test_windows_follow_each_other_and_start_anew_after_a_cut(rng):
    images = panning(texture(rng), 40) + panning(texture(rng), 40)
    choice = chosen(images)
    assert choice.cuts == [40]
    covered = [frame for window in choice.windows for frame in range(window.first, window.first + window.n)]
    assert len(covered) == len(set(covered)), "two windows overlap"
    assert {0, 40} <= {window.first for window in choice.windows}
    assert all(window.first >= 40 or window.first + window.n <= 40 for window in choice.windows), "a window contains the cut"
    assert 80 - len(covered) < 2 * 7, "frames were left out for no reason"
    assert {window.n for window in choice.windows} <= set(range(7, 14))
    assert len({window.n for window in chosen(panning(texture(rng, width=700), 250, width=96)).windows}) > 4


def test_the_length_of_a_window_depends_on_seed_scene_and_place_alone(rng):
    images = panning(texture(rng), 60)
    windows = chosen(images, stride=5).windows
    assert windows == chosen(images, stride=5).windows
    later = chosen(images, stride=5, exclude=[(1, 5)]).windows
    assert [(w.first, w.n) for w in later] == [(w.first, w.n) for w in windows[1:]]
    for change in ({"seed": 1}, {"scene": "t"}):
        assert [w.n for w in chosen(images, stride=5, **change).windows] != [w.n for w in windows]


def test_stride_makes_windows_overlap_or_leaves_frames_between(rng):
    images = panning(texture(rng), 60)
    assert [window.first for window in chosen(images, frames=(7, 7), stride=3).windows] == list(range(0, 54, 3))
    assert [window.first for window in chosen(images, frames=(7, 7), stride=20).windows] == [0, 20, 40]
    assert [window.first for window in chosen(images, frames=(60, 60)).windows] == [0]
    assert chosen(images, frames=(61, 61)).windows == []


@pytest.mark.parametrize("exclude", [[(20, 29)], [(1, 1)], [(60, 99)], [(10, 12), (11, 30), (45, 45)]])
def test_excluded_frames_are_in_no_window(rng, exclude):
    windows = chosen(panning(texture(rng), 60), exclude=exclude, stride=1).windows
    used = {frame for window in windows for frame in range(window.first + 1, window.first + window.n + 1)}  # as displayed, from 1
    banned = {frame for low, high in exclude for frame in range(low, high + 1)}
    assert not used & banned
    at_hand = set(range(1, 61)) - banned
    assert used == {f for f in at_hand if any(set(range(s, s + 7)) <= at_hand for s in range(f - 6, f + 1))}


def test_no_window_spans_missing_frames(rng):
    images = panning(texture(rng), 30)
    motion = measure_motion((Frame(image, gap=i == 15) for i, image in enumerate(images)), lag=3)
    windows = choose_windows(motion, **(ASKED | {"stride": 1})).windows
    assert all(window.first >= 15 or window.first + window.n <= 15 for window in windows)
    assert {window.first for window in windows} >= {0, 15}


def test_still_stretches_are_passed_over_and_counted(rng):
    picture = texture(rng)
    images = panning(picture, 21) + [picture[:, 40:200]] * 40 + panning(picture, 21, start=40)
    choice = chosen(images, frames=(7, 7))
    firsts = [window.first for window in choice.windows]
    assert firsts[:3] == [0, 7, 14]
    assert firsts[-2:] == [63, 70]
    assert not any(20 <= first <= 54 for first in firsts), "a still window was used"
    assert choice.static >= 4
    assert choice.most_static < 2
    everything = chosen(images, frames=(7, 7), min_motion=0)
    assert everything.static == 0
    assert len(everything.windows) == len(choice.windows) + choice.static


@pytest.mark.parametrize("low", [2, 3])
def test_short_windows_are_told_from_still_ones_too(rng, low):
    picture = texture(rng)
    for images, moves in ((panning(picture, 12, speed=3), True), ([picture] * 12, False)):
        choice = choose_windows(measure(images, lag=low - 1), **(ASKED | {"frames": (low, low)}))
        assert bool(choice.windows) == moves
