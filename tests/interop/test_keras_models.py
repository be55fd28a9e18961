"""The Keras reference itself: its parameter counts (SPEC section 1), its layers against numpy, its files, its training loop."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # before keras is imported

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_step import CRITIC, CROP, GENERATOR, features
from networks import quick_compiles  # noqa: F401

keras = pytest.importorskip("keras", reason="pip install 'drsn-jax[keras]'")
keras_models = pytest.importorskip("drsn_jax.interop.keras_models")
keras_training = pytest.importorskip("drsn_jax.benchmark.keras_training")
to_numpy = keras.ops.convert_to_numpy


def count(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_weights), model.count_params()


def test_parameter_counts_are_the_specifications():
    generator, critic = count(keras_models.make_generator()), count(keras_models.make_critic())
    assert generator == (12_577_539, 12_592_643)
    assert critic == (3_096_450, 3_098_370)
    assert generator[1] + critic[1] == 15_691_013


def test_without_shrinkage_it_is_the_deblurgan_generator():
    assert count(keras_models.make_generator(shrinkage=False, block_order="post")) == (11_388_675, 11_399_171)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(4, 9), st.integers(4, 9), st.integers(0, 2**16))
def test_padding_reflects_as_numpy_does(margin, height, width, seed):
    x = np.random.default_rng(seed).normal(size=(2, height, width, 3)).astype(np.float32)
    padded = to_numpy(keras_models.ReflectionPadding2D(margin)(x))
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect"))


def test_soft_threshold_shrinks_each_channel_by_its_own(rng):
    x = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)
    thresholds = rng.uniform(0, 1, (2, 4)).astype(np.float32)
    shrunk = to_numpy(keras_models.SoftThreshold()([x, thresholds]))
    for b in range(2):
        for c in range(4):
            values, threshold = x[b, :, :, c], thresholds[b, c]
            expected = np.where(values > threshold, values - threshold, np.where(values < -threshold, values + threshold, 0))
            np.testing.assert_allclose(shrunk[b, :, :, c], expected, atol=1e-6)


def test_the_global_skip_averages_or_clips():
    x, residual = np.full((1, 2, 2, 3), 0.75, np.float32), np.full((1, 2, 2, 3), 0.5, np.float32)
    assert float(to_numpy(keras_models.GlobalSkip("average")([x, residual])).max()) == 0.625
    assert float(to_numpy(keras_models.GlobalSkip("clip_residual")([x, residual])).max()) == 1.0


def test_a_saved_model_is_loaded_by_keras_alone_with_its_own_layers(tmp_path, rng):
    generator = keras_models.make_generator(**GENERATOR | {"output": "clip_residual"})
    generator.save(tmp_path / "generator.keras")
    again = keras.saving.load_model(tmp_path / "generator.keras")
    x = rng.uniform(-1, 1, (1, 20, 24, 3)).astype(np.float32)
    np.testing.assert_allclose(to_numpy(again(x)), to_numpy(generator(x)), atol=1e-6)


def test_features_are_frozen_and_reach_the_named_layer():
    model = features()
    assert not model.trainable_weights
    assert model.output_shape == (None, None, None, 256)
    assert model.layers[-1].name == "block3_conv3"


def train_on_one_batch(rng, *, generator_optimizer, critic_optimizer, steps):
    """Return the losses of some steps of the reference's loop on one batch, from the same initial weights in every run."""
    keras.utils.set_random_seed(0)
    generator, critic = keras_models.make_generator(**GENERATOR), keras_models.make_critic(**CRITIC, image_size=CROP)
    train = keras_training.make_training_loop(
        generator,
        critic,
        features(),
        generator_optimizer=generator_optimizer,
        critic_optimizer=critic_optimizer,
        critic_steps=1,
    ).train
    sharp = rng.uniform(-1, 1, (4, CROP, CROP, 3)).astype(np.float32)
    return [train(sharp * 0.5, sharp) for _ in range(steps)]


def test_training_lowers_the_content_loss_and_leaves_the_features_alone(rng):
    before = [w.copy() for w in features().get_weights()]
    optimizers = {"generator_optimizer": keras.optimizers.Adam(1e-2), "critic_optimizer": keras.optimizers.Adam(1e-4)}
    losses = train_on_one_batch(rng, **optimizers, steps=15)
    assert losses[-1]["generator/content"] < 0.8 * losses[0]["generator/content"]
    assert set(losses[0]) == {"critic/sharp", "critic/restored", "generator/loss", "generator/content", "generator/adversarial"}
    for old, new in zip(before, features().get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_critic_learns_to_tell_sharp_from_restored_of_a_generator_that_stands_still(rng):
    """Against a generator that learns too, the distance may go either way."""
    optimizers = {"generator_optimizer": keras.optimizers.SGD(0.0), "critic_optimizer": keras.optimizers.Adam(1e-3)}
    distances = [step["critic/sharp"] - step["critic/restored"] for step in train_on_one_batch(rng, **optimizers, steps=15)]
    assert distances[-1] > distances[0] + 0.05


def test_the_parts_of_the_loop_change_only_what_is_theirs_and_make_up_the_step(rng):
    def make():
        keras.utils.set_random_seed(0)
        generator, critic = keras_models.make_generator(**GENERATOR), keras_models.make_critic(**CRITIC, image_size=CROP)
        optimizers = {"generator_optimizer": keras.optimizers.SGD(1e-3), "critic_optimizer": keras.optimizers.SGD(1e-3)}
        return generator, critic, keras_training.make_training_loop(generator, critic, features(), critic_steps=2, **optimizers)

    def copy(model):
        return [w.copy() for w in model.get_weights()]

    def differ(first, second):
        return any((a != b).any() for a, b in zip(first, second, strict=True))

    blurred, sharp = (rng.uniform(-1, 1, (4, CROP, CROP, 3)).astype(np.float32) for _ in range(2))
    generator, critic, loop = make()
    weights = copy(generator), copy(critic)
    losses = loop.critic_part(sharp, loop.predict(blurred))
    learned = copy(critic)
    assert differ(learned, weights[1])
    assert not differ(copy(generator), weights[0])
    losses |= loop.generator_part(blurred, sharp)
    assert differ(copy(generator), weights[0])
    assert not differ(copy(critic), learned)
    whole_generator, whole_critic, whole = make()
    assert whole.train(blurred, sharp) == losses
    assert not differ(copy(generator) + learned, copy(whole_generator) + copy(whole_critic))
