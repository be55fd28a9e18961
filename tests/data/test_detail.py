"""Crops chosen by their detail: which of several, and that where there is one nothing changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsn_jax.data.synthesis.bank import make_bank
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.clips import make_clip, make_clip_batch_fn
from drsn_jax.data.synthesis.detail import choose_key, measure_detail
from drsn_jax.data.synthesis.resident import make_batch_fn


def test_detail_is_the_mean_step_between_neighbours(rng):
    image = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    wide = image.astype(int)
    expected = np.abs(wide[1:] - wide[:-1]).mean() + np.abs(wide[:, 1:] - wide[:, :-1]).mean()
    assert float(measure_detail(jnp.asarray(image))) == pytest.approx(expected, rel=1e-6)


def test_the_key_of_the_crop_with_the_most_detail():
    def cut(key):
        return jax.random.uniform(key) * jax.random.uniform(key, (6, 6, 3))

    key = jax.random.key(3)
    keys = jax.random.split(key, 5)
    best = keys[np.argmax([float(measure_detail(cut(k))) for k in keys])]
    assert (jax.random.key_data(choose_key(cut, key, candidates=5)) == jax.random.key_data(best)).all()
    assert (jax.random.key_data(choose_key(cut, key, candidates=1)) == jax.random.key_data(key)).all()


@pytest.fixture
def half_flat(rng):
    """Grey on the left, noise on the right."""
    image = np.full((40, 80, 3), 128, np.uint8)
    image[:, 40:] = rng.integers(0, 256, (40, 40, 3))
    return image


def share_of_flat(batch):
    return float(np.mean([np.ptp(crop) < 1e-6 for crop in np.asarray(batch["sharp"])]))


@pytest.mark.parametrize("kind", ["photographs", "pairs", "clip"])
def test_flat_crops_become_rare(kind, half_flat):
    """About half of all crops of 8 at random are flat, and one in 2**4 where four are drawn."""
    options = {"batch_size": 128, "crop_size": 8}
    if kind == "clip":
        data = make_clip([half_flat] * 3, np.array([3, 2, 1]))
        make = lambda n: make_clip_batch_fn(averaged=(1, 3), noise_variance=(0.0, 0.0), candidates=n, **options)  # noqa: E731
    else:
        image = np.concatenate([half_flat] * 2, axis=-1) if kind == "pairs" else half_flat
        data = make_bank([image], names=["a"], crop_size=8)
        recipe = BlurRecipe(length=(0.0, 2.0), variation=0.0, noise_variance=(0.0, 0.0))
        make = lambda n: make_batch_fn(recipe=recipe, candidates=n, **options)  # noqa: E731
    one, four = (share_of_flat(jax.jit(make(n))(data, jax.random.key(1))) for n in (1, 4))
    assert 0.3 < one < 0.6
    assert four < 0.15
