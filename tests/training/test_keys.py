"""Random keys: no two draws of a batch or of a training step use the same one.

`fold_in(key, i)` equals `split(key, n)[i]`, so a key that is split and also folded with a small number gives one stream twice.
"""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import define_prng_impl
from networks import draw_state, images, quick_compiles  # noqa: F401

from drsn_jax.config.build import make_training
from drsn_jax.config.files import load_config
from drsn_jax.data.synthesis import clips, resident
from drsn_jax.data.synthesis.bank import make_bank
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.objects import SIDE, random_shape

EVERYTHING = BlurRecipe(
    length=(2.0, 6.0),
    inertia=(0.5, 0.9),
    moment="middle",
    object_share=0.5,
    softness=(0.5, 1.0),
    jpeg_quality=(50.0, 90.0),
    noise_variance=(0.001, 0.002),
    noise_share=0.5,
)


class Recording:
    """JAX's default generator under a name of its own, which notes every key that is drawn from, and every one that is derived from."""

    def __init__(self):
        self.drawn, self.parents = Counter(), set()
        self.impl = define_prng_impl(
            key_shape=(2,), seed=self.seed, split=self.split, random_bits=self.bits, fold_in=self.fold_in, name="recording", tag="recording"
        )

    @staticmethod
    def seed(number):
        return jax.random.key_data(jax.random.key(number))

    def split(self, key, shape):
        jax.debug.callback(lambda key: self.parents.add(tuple(key.tolist())), key)
        return jax.random.key_data(jax.random.split(jax.random.wrap_key_data(key), shape))

    def fold_in(self, key, number):
        jax.debug.callback(lambda key: self.parents.add(tuple(key.tolist())), key)
        return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), number))

    def bits(self, key, bit_width, shape):
        jax.debug.callback(lambda key: self.drawn.update([tuple(key.tolist())]), key)
        return jax.random.bits(jax.random.wrap_key_data(key), shape, jnp.dtype(f"uint{bit_width}"))

    def check(self, *, at_least):
        jax.effects_barrier()
        assert len(self.drawn) >= at_least
        twice = {key: number for key, number in self.drawn.items() if number > 1}
        assert not twice, f"{len(twice)} of {len(self.drawn)} keys are drawn from more than once"
        assert not self.parents & set(self.drawn), "a key is drawn from and derived from"


@pytest.fixture
def recording():
    return Recording()


def test_the_recording_generator_is_jaxs_own_and_finds_both_faults(recording):
    key, own = (jax.random.key(7, impl=impl) for impl in (recording.impl, "threefry2x32"))
    for draw in (partial(jax.random.normal, shape=(3,)), lambda key: jax.random.uniform(jax.random.split(key)[1])):
        np.testing.assert_array_equal(draw(key), draw(own))
    with pytest.raises(AssertionError, match="drawn from and derived from"):
        recording.check(at_least=2)
    again = Recording()
    key = jax.random.key(7, impl=again.impl)
    jax.random.bits(jax.random.split(key, 5)[1])
    jax.vmap(lambda number: jax.random.bits(jax.random.fold_in(key, number)))(jnp.arange(3))
    with pytest.raises(AssertionError, match="1 of 3 keys"):
        again.check(at_least=3)


def test_every_draw_of_a_batch_of_photographs_has_a_key_of_its_own(recording, rng):
    photograph = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    bank = make_bank([photograph], names=["photograph"], crop_size=16)
    batch_fn = jax.jit(resident.make_batch_fn(batch_size=3, crop_size=16, recipe=EVERYTHING))
    jax.block_until_ready(batch_fn(bank, jax.random.key(0, impl=recording.impl)))
    recording.check(at_least=3 * 30)


def test_every_draw_of_the_shape_of_an_object_has_a_key_of_its_own(recording):
    shapes = np.full((3, SIDE, SIDE), 128, np.uint8)
    jax.block_until_ready(jax.jit(lambda key: random_shape(key, shapes, 12, 12))(jax.random.key(0, impl=recording.impl)))
    recording.check(at_least=5)


def test_every_draw_of_a_batch_of_a_clip_has_a_key_of_its_own(recording, rng):
    clip = clips.make_clip(list(rng.integers(0, 256, (9, 20, 24, 3), dtype=np.uint8)), np.arange(9, 0, -1, dtype=np.int32))
    batch_fn = jax.jit(
        clips.make_clip_batch_fn(batch_size=3, crop_size=16, averaged=(3, 5), noise_variance=(0.001, 0.002), noise_share=0.5)
    )
    jax.block_until_ready(batch_fn(clip, jax.random.key(0, impl=recording.impl)))
    recording.check(at_least=3 * 8)


@pytest.mark.parametrize("critic_batches", ["same", "fresh"])
def test_every_draw_of_a_training_step_has_a_key_of_its_own(recording, critic_batches):
    """With a gradient penalty, and dropout in two blocks; over two steps, whose keys differ too."""
    config = load_config("default") | {"critic_batches": critic_batches, "critic_steps": 2, "content_weight": 0.0, "dropout": 0.5}
    config |= {"widths": (4, 4, 6), "num_blocks": 2, "trunk": "quarter", "unshuffle": 1, "critic_widths": (4, 4)}
    config |= {"stages": (), "crop_size": 16, "batch_size": 2, "warmup_steps": 0}
    training = make_training(config, num_train_steps=2)
    state = draw_state(training.init).replace(rng=jax.random.key(1, impl=recording.impl))
    batch = {name: images(6 if critic_batches == "fresh" else 2, 16, 16, seed) for seed, name in enumerate(("blurred", "sharp"))}
    train_step = jax.jit(training.train_step)
    for _ in range(2):
        state, _ = jax.block_until_ready(train_step(state, batch))
    recording.check(at_least=2 * (2 + 2))
