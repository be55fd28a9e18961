"""The functions for a loop of one's own: the example of docs/how-to/train-from-python.md as it stands, and what it says of them."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import draw_variables, images, quick_compiles  # noqa: F401

from drsn_jax.config.build import make_training as make_training_of_config
from drsn_jax.config.files import load_config
from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.models.inference import restore_batch
from drsn_jax.ops.backend import CPU, PLAIN, forms_for
from drsn_jax.ops.metrics import METRICS, score_pair
from drsn_jax.restoration.core.tiling import restore_array, restore_uint8
from drsn_jax.system.errors import InputError
from drsn_jax.training.functional import make_training
from drsn_jax.training.spec import LossWeights, Parts, StepSpec

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "train-from-python.md").read_text()
EXAMPLE = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]


@pytest.fixture(scope="module")
def example(quick_compiles):  # noqa: F811
    """Return the names that the example defines."""
    names = {}
    exec(EXAMPLE, names)
    return names


def to_uint8(image):
    return np.rint((np.asarray(image, np.float64) + 1) * 127.5).astype(np.uint8)


def test_the_example_trains_evaluates_and_restores(example):
    assert len(EXAMPLE.splitlines()) <= 30
    blurred, sharp = (np.asarray(example["batch"][name]) for name in ("blurred", "sharp"))
    assert int(example["state"].step) == 60
    metrics = jax.device_get(example["metrics"])
    assert metrics["generator/pixel"] < 0.97 * np.abs(sharp - blurred).mean(), "where the zero head began"
    assert np.isfinite(list(metrics.values())).all()
    assert set(example["scores"]) == set(METRICS)
    errors = np.square(np.float64(to_uint8(blurred)) - to_uint8(sharp)).mean((1, 2, 3))
    assert (np.asarray(example["scores"]["psnr"]) > 10 * np.log10(255**2 / errors) + 0.1).all(), "better than the input"
    restored = np.asarray(example["restored"])
    assert (restored.shape, restored.dtype) == ((4, 30, 21, 3), np.float32)
    assert np.abs(restored).max() <= 1
    assert np.abs(restored - blurred[:, :30, :21]).max() > 0.05
    assert [leaf.shape[:2] for leaf in jax.tree.leaves(example["log"])] == [(3, 3)] * len(metrics)


def parameters(state):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves((state.generator_params, state.critic_params))])


def test_seeds_and_steps_in_one_program_equal_each_alone(example):
    init, step, batch = jax.jit(example["training"].init), example["train_step"], example["batch"]
    together, log = (
        jax.device_get(example["states"].replace(rng=jax.random.key_data(example["states"].rng))),
        jax.device_get(example["log"]),
    )
    ends = []
    for i, seed in enumerate(jax.random.split(jax.random.key(2), 3)):
        state = init(seed)
        for k in range(3):
            state, metrics = step(state, batch)
            for name, value in metrics.items():
                assert log[name][i, k] == pytest.approx(float(value), rel=1e-4, abs=1e-5), (name, i, k)
        ours = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert (ours.step, ours.rng.tolist()) == (3, jax.random.key_data(state.rng).tolist())
        ends.append(parameters(state))
        difference = np.abs(parameters(ours) - ends[-1])
        # Adam divides by a gradient's size, so that where it is all rounding an update may be any part of the learning rate.
        assert np.mean(difference < 1e-4) > 0.95
        assert difference.max() < 5e-3
    assert np.mean(np.abs(ends[0] - ends[1]) > 5e-3) > 0.5, "seeds differ"


def test_evaluate_step_scores_as_files_are_scored(example):
    training, state = example["training"], example["state"]
    files = {name: to_uint8(values) for name, values in example["batch"].items()}
    scores = jax.jit(training.evaluate_step)(state, {name: jnp.asarray(values / np.float32(127.5) - 1) for name, values in files.items()})
    predict_fn = partial(jax.jit(training.generator.apply), state.variables)
    for i, (blurred, sharp) in enumerate(zip(files["blurred"], files["sharp"], strict=True)):
        for name, value in score_pair(restore_uint8(blurred, predict_fn=predict_fn, stride=4), sharp).items():
            assert scores[name][i] == pytest.approx(float(value), abs=1e-3), name


def test_what_is_not_finite_scores_nan_and_no_more(example):
    batch = example["batch"] | {"blurred": example["batch"]["blurred"].at[1, 5, 6, 0].set(jnp.nan)}
    scores = jax.jit(example["training"].evaluate_step)(example["state"], batch)
    for name, values in scores.items():
        assert np.isnan(values).tolist() == [False, True, False, False], name
        np.testing.assert_allclose(np.delete(values, 1), np.delete(example["scores"][name], 1), rtol=1e-5)


def test_restore_has_a_gradient_in_the_images(example):
    x, direction, weights = (np.asarray(images(1, 30, 21, seed=i)) for i in (1, 2, 3))
    value_fn = jax.jit(jax.value_and_grad(lambda x: (weights * example["training"].restore(example["state"], x)).sum()))
    (_, gradient), (above, _), (below, _) = (value_fn(0.5 * x + step * direction) for step in np.float32([0, 3e-4, -3e-4]))
    gradient = np.asarray(gradient)
    assert gradient.shape == x.shape
    assert (gradient * direction).sum() == pytest.approx(float(above - below) / 6e-4, rel=0.03)
    assert np.abs(gradient[:, -1]).min() > 0, "up to the edge that was padded"


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (16, 30)])
def test_restore_pads_as_the_path_for_files_does(size):
    def predict(x):  # sees its neighbours, and so the padding
        return jnp.asarray(0.5 * x + 0.25 * (np.roll(x, -1, axis=1) + np.roll(x, -1, axis=2)))

    x = np.asarray(images(2, *size, seed=3))
    restored = np.asarray(restore_batch(x, predict_fn=predict, stride=4))
    expected = [restore_array((image + 1) / 2, predict_fn=predict, stride=4) for image in x]
    np.testing.assert_allclose((restored + 1) / 2, np.stack(expected), atol=1e-6)


def test_images_without_pixels_are_refused():
    with pytest.raises(InputError, match=r"\(2, 0, 8, 3\)"):
        restore_batch(jnp.zeros((2, 0, 8, 3)), predict_fn=lambda x: x, stride=4)


def make_tiny(*, forms=CPU, **options):
    generator = Generator(widths=(4, 4, 4), num_blocks=1, remat=True, forms=forms)
    critic = Critic(head="patch", widths=(4, 4), norm="none", forms=forms)
    parts = Parts(generator, critic, optax.sgd(0.01), optax.sgd(0.01), lambda step: 0.01)
    return make_training(parts, StepSpec(forms=forms, **options), image_size=16)


def test_a_content_loss_without_features_is_refused():
    training = make_tiny(weights=LossWeights())
    state = jax.eval_shape(training.init, jax.random.key(0))
    with pytest.raises(InputError, match="features_fn"):
        jax.eval_shape(training.train_step, state, {"blurred": images(1, 16, 16), "sharp": images(1, 16, 16)})


def test_the_step_can_be_mapped_and_scanned_in_the_forms_for_accelerators():
    """Rolled loops, micro-batches, rematerialisation, batch norm and barriers; traced, not run."""
    options = {"critic_batches": "fresh", "accumulation_steps": 2, "critic_steps": 2, "ema_decay": 0.9, "lipschitz": "gradient_penalty"}
    training = make_tiny(weights=LossWeights(content=0.0, frequency=1.0), forms=forms_for("cuda"), **options)
    batches = {name: jnp.zeros((3, 12, 16, 16, 3)) for name in ("blurred", "sharp")}
    keys = jax.random.split(jax.random.key(0), 2)
    states = jax.eval_shape(jax.vmap(training.init), keys)
    after, log = jax.eval_shape(jax.vmap(lambda state: jax.lax.scan(training.train_step, state, batches)), states)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), states)
    assert {leaf.shape for leaf in jax.tree.leaves(log)} == {(2, 3)}


def test_a_configuration_makes_the_same_functions():
    training = make_training_of_config(load_config("demo"), num_train_steps=100)
    state = jax.eval_shape(training.init, jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((2, 50, 70, 3), jnp.float32) for name in ("blurred", "sharp")}
    scores = jax.eval_shape(training.evaluate_step, state, batch)
    assert {name: score.shape for name, score in scores.items()} == dict.fromkeys(METRICS, (2,))
    assert jax.eval_shape(training.restore, state, batch["blurred"]).shape == (2, 50, 70, 3)


def test_forward_mode_and_second_derivatives_work_through_the_plain_forms_on_cpu():
    """The documented switch: `forms=PLAIN`. Against differences, and against the gradient of a gradient."""
    generator = Generator(widths=(12, 12, 12), num_blocks=1, norm="none", dropout=0.0, remat=True, forms=PLAIN)
    variables, x, direction = draw_variables(generator, images(1, 16, 16)), images(1, 16, 16, seed=1), images(1, 16, 16, seed=2)

    @jax.jit
    def loss(scale, x):
        return jnp.square(generator.apply(variables, 0.3 * x + scale * direction, train=True)).mean()

    value, slope = jax.jvp(partial(loss, x=x), (jnp.float32(0),), (jnp.float32(1),))
    _, linear = jax.linearize(partial(loss, x=x), jnp.float32(0))
    assert float(slope) == pytest.approx(float(jax.grad(loss)(jnp.float32(0), x)), rel=1e-4)
    assert float(linear(jnp.float32(2))) == pytest.approx(2 * float(slope), rel=1e-5)
    curvature = float(jax.hessian(loss)(jnp.float32(0), x))
    assert curvature == pytest.approx(float(jax.grad(jax.grad(loss))(jnp.float32(0), x)), rel=1e-3, abs=1e-5)
    assert np.isfinite(float(value))
    with pytest.raises(TypeError, match="jvp"):
        jax.jvp(lambda v: jnp.square(generator.clone(forms=CPU).apply(v, x)).mean(), (variables,), (variables,))
