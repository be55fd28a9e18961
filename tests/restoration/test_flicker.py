"""Flicker of clips whose flicker is known."""

import numpy as np
import pytest

from drsn_jax.restoration.video.flicker import BLOCK, FlickerMeter


def measure(blurred, restored):
    meter = FlickerMeter()
    for one, other in zip(blurred, restored, strict=True):
        meter.add(one.astype(np.float32), other.astype(np.float32))
    return meter.result()


@pytest.fixture
def frame(rng):
    return rng.uniform(0.2, 0.7, (2 * BLOCK + 5, 3 * BLOCK, 3)).astype(np.float32)


def test_a_still_clip_does_not_flicker_however_it_is_restored(frame):
    flicker = measure([frame] * 4, [frame * 1.2 + 0.1] * 4)
    assert flicker.brightness == flicker.detail == (0, 0, 0)


def test_a_gain_that_alternates_is_measured_in_levels():
    grey = np.full((BLOCK, BLOCK, 3), 0.4, np.float32)
    flicker = measure([grey] * 5, [grey * (1.05 if t % 2 else 0.95) for t in range(5)])
    np.testing.assert_allclose(flicker.brightness, (0, 0.1 * 0.4 * 255, 0.1 * 0.4 * 255), rtol=1e-5)
    np.testing.assert_allclose(flicker.detail, (0, 0, 0), atol=1e-4)


def test_detail_that_pulses_is_no_change_of_brightness():
    columns = np.where(np.arange(2 * BLOCK) % 2, 0.6, 0.4).astype(np.float32)  # a standard deviation of 0.1 in every block
    stripes = np.broadcast_to(columns[None, :, None], (BLOCK, 2 * BLOCK, 3))
    flicker = measure([stripes] * 4, [0.5 + (stripes - 0.5) * (2 if t % 2 else 1) for t in range(4)])
    np.testing.assert_allclose(flicker.detail, (0, 0.1 * 255, 0.1 * 255), rtol=1e-4)
    np.testing.assert_allclose(flicker.brightness, (0, 0, 0), atol=1e-4)


def test_what_both_videos_do_is_not_added(frame):
    clip = [frame * gain for gain in (1.0, 0.5, 1.2)]
    flicker = measure(clip, [image + np.float32(0.05) for image in clip])
    assert flicker.brightness.before > 10
    np.testing.assert_allclose(flicker.brightness.after, flicker.brightness.before, rtol=1e-5)
    np.testing.assert_allclose(flicker.brightness.added, 0, atol=1e-4)


def test_the_mean_is_over_blocks_and_pairs_of_frames():
    dark = np.zeros((BLOCK, 4 * BLOCK, 3), np.float32)
    lit = dark.copy()
    lit[:, :BLOCK] = 1  # one block of four, in one of two steps
    np.testing.assert_allclose(measure([dark] * 3, [dark, lit, lit]).brightness, (0, 255 / 8, 255 / 8), rtol=1e-5)


def test_a_frame_smaller_than_a_block_and_a_single_frame():
    small = np.zeros((3, 5, 3), np.float32)
    assert measure([small], [small]) is None
    np.testing.assert_allclose(measure([small, small], [small, small + 1]).brightness.added, 255, rtol=1e-5)
