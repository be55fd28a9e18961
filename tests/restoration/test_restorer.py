"""The choices that files, videos and arrays share: strength, the mean over turns, tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsn_jax.restoration.core.restorer import average_turns, make_restore_fn
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import Model


@jax.jit
def predict_fn(blurred):
    """Mix each pixel with the one above, the one to the left, and its place. This commutes with no turn and no mirror image."""
    mixed = 0.5 * blurred + 0.3 * jnp.roll(blurred, 1, axis=1) - 0.2 * jnp.roll(blurred, 1, axis=2)
    return mixed + 0.1 * jnp.linspace(-1, 1, blurred.shape[1])[None, :, None, None]


MODEL = Model(predict_fn, 4, {}, {})
TURNS = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def turn(image, turns, mirrored):
    turned = np.rot90(image, turns)
    return turned.swapaxes(0, 1) if mirrored else turned


def turn_back(image, turns, mirrored):
    return np.rot90(image.swapaxes(0, 1) if mirrored else image, -turns)


@pytest.fixture
def image(rng):
    """Not square, no multiple of the stride."""
    return rng.uniform(0.2, 0.8, (37, 26, 3)).astype(np.float32)


@pytest.mark.parametrize("tile", [None, 64, 16])  # in one piece, padded; then both axes in tiles
def test_self_ensemble_is_the_mean_over_eight_and_commutes_with_them(tile, image):
    once = make_restore_fn(MODEL, tile=tile, overlap=4)
    restore_fn = make_restore_fn(MODEL, self_ensemble=True, tile=tile, overlap=4)
    restored = restore_fn(image)
    expected = np.mean([turn_back(once(turn(image, *how)), *how) for how in TURNS], axis=0)
    np.testing.assert_allclose(restored, expected, atol=1e-6)
    assert np.abs(restored - once(image)).max() > 0.01
    assert np.abs(once(np.rot90(image)) - np.rot90(once(image))).max() > 0.01, "the network itself would do"
    for how in TURNS:
        np.testing.assert_allclose(restore_fn(turn(image, *how)), turn(restored, *how), atol=1e-6)


def test_every_turn_is_taken_once(image):
    seen = []
    restored = average_turns(image, restore_fn=lambda turned: seen.append(turned) or turned)
    np.testing.assert_allclose(restored, image, atol=1e-7)
    assert len({turned.tobytes() for turned in seen}) == len(seen) == 8


@pytest.mark.parametrize("self_ensemble", [False, True])
def test_strength_is_the_way_from_the_image_to_the_restored(self_ensemble, image):
    restored = make_restore_fn(MODEL, self_ensemble=self_ensemble)(image)
    for strength in (0, 0.25, 1):
        mixed = make_restore_fn(MODEL, self_ensemble=self_ensemble, strength=strength)(image)
        assert mixed.dtype == np.float32
        np.testing.assert_allclose(mixed, image + strength * (restored - image), atol=1e-6)
    np.testing.assert_array_equal(make_restore_fn(MODEL, strength=0)(image), image)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_strengths_outside_are_named(strength):
    with pytest.raises(InputError, match=rf"^Strength {strength} is no number from 0 .* to 1 .*--strength=1\)\.$"):
        make_restore_fn(MODEL, strength=strength)


def test_a_full_device_asks_for_less_and_our_own_failures_stay(image):
    def failing(error):
        def fail(blurred):
            raise error

        return MODEL._replace(predict_fn=fail)

    full = failing(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes."))
    with pytest.raises(InputError, match=r"26x37 pixels .*\(--tile=48\)"):
        make_restore_fn(full, tile=96)(image)
    with pytest.raises(InputError, match=r"use more devices, or restore in tiles \(without --whole\)"):
        make_restore_fn(full, tile=None)(image)
    with pytest.raises(InputError, match="does not fit in memory"):
        make_restore_fn(failing(MemoryError()), self_ensemble=True)(image)
    with pytest.raises(RuntimeError, match="a bug"):
        make_restore_fn(failing(RuntimeError("a bug")))(image)
