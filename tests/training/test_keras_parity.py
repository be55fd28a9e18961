"""The Keras reference and ours, side by side: same weights and images, then same outputs; same step, then same changes.

The Keras side is an implementation of its own (keras.layers, keras.applications' VGG19, keras' optimisers); weights go through the bridge.
Each comparison is also made with one thing wrong, to show that it would be seen.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # before keras is imported: another back end is another process

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from keras_step import BATCH, CRITIC, CROP, GENERATOR, RATES
from networks import draw_variables, images, quick_compiles  # noqa: F401

from drsn_jax.interop.keras import encode_keras, from_model, list_layers, make_model, to_variables
from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.models.vgg19 import VGG19
from drsn_jax.ops.backend import CPU
from drsn_jax.training.optimizer import make_optimizer
from drsn_jax.training.spec import Parts, StepSpec
from drsn_jax.training.state import init_state
from drsn_jax.training.step import make_train_step
from drsn_jax.weights.keras_files import read_layers
from drsn_jax.weights.vgg19 import load_vgg19

keras = pytest.importorskip("keras", reason="pip install 'drsn-jax[keras]'")
TOLERANCE = 1e-3


def trained_variables(module, size, seed=0):
    """Make variables unlike any initialisation: each bias, scale and statistic differs from 0 and 1, so a lost one is noticed."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        ranges = {"scale": (0.5, 1.5), "bias": (-0.2, 0.2), "mean": (-0.3, 0.3), "var": (0.3, 1.5)}
        name = path[-1].key
        return jnp.asarray(rng.uniform(*ranges[name], leaf.shape), jnp.float32) if name in ranges else leaf

    return jax.tree_util.tree_map_with_path(draw, draw_variables(module, images(1, size, size), seed=seed))


def largest_difference(module, variables, model, batch):
    outputs = jax.jit(module.apply)(variables, batch), predict(model, batch)
    ours, theirs = (np.asarray(x).reshape(len(batch), -1) for x in outputs)
    return np.abs(ours - theirs).max()


def predict(model, batch):
    # Not predict_on_batch, which compiles once: a test that changes a layer afterwards would change nothing.
    return keras.ops.convert_to_numpy(model(np.asarray(batch), training=False))


@pytest.fixture(scope="module")
def pairs():
    """Small networks of ours, their variables, the Keras models of the same weights, images: by kind."""
    made = {}
    for kind, options, size in ((Generator, GENERATOR, CROP + 8), (Critic, CRITIC, CROP)):  # the generator takes any size
        module = kind(**options)
        variables = trained_variables(module, size)
        made[kind] = (module, variables, make_model(module, variables, image_size=size), images(2, size, size, seed=1))
    return made


@pytest.fixture
def pair(pairs, kind):
    """One of them, whose Keras model a test may change: it gets its weights back."""
    module, variables, model, batch = pairs[kind]
    weights = model.get_weights()
    yield module, variables, model, batch
    model.set_weights(weights)


@pytest.mark.soak  # small networks of all forms are compared in every run
@pytest.mark.parametrize(("kind", "options"), [(Generator, {"threshold_norm": "batch", "output": "average"}), (Critic, {})])
def test_the_full_networks_give_the_same_outputs_at_256x256(kind, options):
    module = kind(**options)
    variables = trained_variables(module, 256)
    model = make_model(module, variables, image_size=256)
    batch = images(1, 256, 256, seed=1)
    expected = model.predict_on_batch(np.asarray(batch)).reshape(1, -1)
    assert np.std(expected) > 0.1 or kind is Critic
    jax.config.update("jax_disable_most_optimizations", False)
    ours = np.asarray(jax.jit(module.apply)(variables, batch)).reshape(1, -1)
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [Generator, Critic])
def test_small_networks_give_the_same_outputs(pair):
    assert largest_difference(*pair) < 1e-5


def test_every_form_that_keras_has_gives_the_same_outputs():
    forms = [
        {"shrinkage": False, "block_order": "post"},  # the DeblurGAN generator of the Keras reference
        {"block_order": "post", "convs_per_block": 1, "output": "clip_residual", "threshold_norm": "none"},
        {"threshold_norm": "layer", "norm": "layer"},
    ]
    for form in forms:
        module = Generator(**GENERATOR | form)
        variables = trained_variables(module, CROP)
        assert largest_difference(module, variables, make_model(module, variables, image_size=CROP), images(2)) < 1e-5, form


@pytest.mark.parametrize("kind", [Generator])
def test_padding_both_sides_of_a_strided_convolution_would_be_seen(pair):
    module, *rest = pair
    assert largest_difference(module.clone(strided_padding="torch"), *rest) > 1e-3


@pytest.mark.parametrize("kind", [Generator, Critic])
def test_another_batch_norm_epsilon_would_be_seen(pair):
    module, variables, model, batch = pair

    def narrow(path, leaf):
        return 0.02 * leaf if path[-1].key == "var" else leaf

    variables = jax.tree_util.tree_map_with_path(narrow, variables)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.moving_variance.assign(0.02 * layer.moving_variance)
    same = largest_difference(module, variables, model, batch)
    assert {layer.epsilon for layer in norms} == {1e-3}
    for layer in norms:
        layer.epsilon = 1e-5
    other = largest_difference(module, variables, model, batch)
    for layer in norms:
        layer.epsilon = 1e-3
    assert other > max(1e-4, 10 * same)


@pytest.mark.parametrize("kind", [Generator, Critic])
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_lost_scale_bias_mean_or_variance_of_one_batch_norm_would_be_seen(pair, kind, index):
    layer = pair[2].get_layer("down2_norm" if kind is Generator else "norm3")
    weights = layer.get_weights()
    weights[index] = np.full_like(weights[index], float(index in (0, 3)))
    layer.set_weights(weights)
    assert largest_difference(*pair) > 1e-4


@pytest.mark.parametrize("kind", [Critic])
def test_another_flattening_order_before_the_dense_layer_would_be_seen(pair):
    layer, side = pair[2].get_layer("dense1"), CROP // 4
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel.reshape(side, side, -1).transpose(1, 0, 2).reshape(kernel.shape), bias])
    assert largest_difference(*pair) > 1e-4


@pytest.fixture(scope="module")
def vgg_features():
    from drsn_jax.interop.keras_models import make_features

    batch = images(1, 32, 32, seed=3)
    return batch, {kind: make_features(content_input=kind).predict_on_batch(np.asarray(batch)) for kind in ("raw", "imagenet")}


@pytest.mark.parametrize("content_input", ["raw", "imagenet"])
def test_vgg19_sees_its_input_as_keras_applications_does(vgg_features, content_input):
    batch, features = vgg_features
    ours = np.asarray(VGG19("conv3_3", content_input).apply({"params": load_vgg19("conv3_3")}, batch))
    other = features["imagenet" if content_input == "raw" else "raw"]
    scale = np.abs(features[content_input]).max()
    assert np.abs(ours - features[content_input]).max() < 1e-5 * scale
    assert np.abs(ours - other).max() > 0.1 * scale, "the comparison would not see the preprocessing"


# One training step


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Make the networks before the step, with their batch: in a folder for Keras, and as ours."""
    folder = tmp_path_factory.mktemp("step")
    modules = Generator(**GENERATOR), Critic(**CRITIC)
    variables = [trained_variables(module, CROP, seed=4 + i) for i, module in enumerate(modules)]
    for name, module, tree in zip(("generator", "critic"), modules, variables, strict=True):
        model = make_model(module, tree, image_size=CROP)
        (folder / f"{name}.weights.h5").write_bytes(encode_keras(model, ".weights.h5"))
    batch = {"blurred": images(BATCH, CROP, CROP, seed=5), "sharp": images(BATCH, CROP, CROP, seed=6)}
    np.savez(folder / "batch.npz", **batch)
    return folder, modules, variables, batch


@pytest.fixture(scope="module")
def our_step(start):
    return functools.cache(functools.partial(step_ours, start))


def step_ours(start, optimizer, **changes):
    """One step of configs/keras_reference.py without dropout; (changes of both networks by leaf, losses)."""
    _, (generator, critic), variables, batch = start
    recipe = {"critic_update": "alternating", "fake_mode": "inference", "critic_norm_in_generator_step": "moving"} | changes
    form, content_input = recipe.pop("adam_form", "keras"), recipe.pop("content_input", "raw")
    rate = optax.constant_schedule(RATES[optimizer])
    tx = optax.sgd(rate) if optimizer == "sgd" else make_optimizer(learning_rate_fn=rate, adam_form=form)
    vgg19, vgg19_params = VGG19("conv3_3", content_input), load_vgg19("conv3_3")
    parts = Parts(generator, critic, tx, tx, rate, lambda params, x: vgg19.apply({"params": params}, x))
    spec = StepSpec(forms=dataclasses.replace(CPU, unroll_loops=False), **recipe)  # a rolled loop compiles sooner
    train_step = make_train_step(parts, spec)
    state = init_state(jax.random.key(0), parts, spec, image_size=CROP)
    trees = {f"{name}_{part}": tree[key] for name, tree in zip(("generator", "critic"), variables, strict=True) for part, key in PARTS}
    state, metrics = jax.jit(train_step)(state.replace(**trees), batch, vgg19_params)
    after = [{key: getattr(state, f"{name}_{part}") for part, key in PARTS} for name in ("generator", "critic")]
    return changes_by_leaf(variables, after), {name: float(value) for name, value in metrics.items()}


PARTS = (("params", "params"), ("stats", "batch_stats"))


def step_keras(start, backend, optimizer):
    """Read the results of tests/keras_step.py through the bridge."""
    folder, modules, variables, _ = start
    after = []
    for name, module in zip(("generator", "critic"), modules, strict=True):
        path = folder / f"{backend}_{optimizer}_{name}.weights.h5"
        after.append(to_variables(read_layers(path), list_layers(module, image_size=CROP), source=str(path)))
    return changes_by_leaf(variables, after), json.loads((folder / f"{backend}_{optimizer}.json").read_text())


def changes_by_leaf(before, after):
    leaves = {}
    for network, old, new in zip(("generator", "critic"), before, after, strict=True):
        difference = jax.tree.map(lambda a, b: np.asarray(b, np.float64) - np.asarray(a, np.float64), old, new)
        leaves |= {network + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(difference)}
    return leaves


def without_gradient(name):
    """Whether a leaf is a bias that the batch norm after it subtracts again: its gradient is 0 but for rounding, of either side."""
    layer = name.split("['params']")[-1].replace("['conv']", "")
    generator = ("['stem']", "['down", "['up", "['conv1']", "['dense1']")
    parts = generator if name.startswith("generator") else tuple(f"['conv{i}']" for i in (2, 3))
    return layer.endswith("['bias']") and "norm" not in layer and any(part in layer for part in parts)


def departures(ours, theirs):
    """Of each leaf, the norm of the difference of its changes over the norm of its change in Keras."""
    return {
        name: np.linalg.norm(ours[name] - change) / np.linalg.norm(change) for name, change in theirs.items() if not without_gradient(name)
    }


def assert_same_step(ours, theirs, optimizer):
    (our_changes, our_losses), (their_changes, their_losses) = ours, theirs
    assert our_changes.keys() == their_changes.keys()
    for name, loss in their_losses.items():
        assert our_losses[name] == pytest.approx(loss, rel=TOLERANCE), name
    assert all(np.abs(change).max() > 0 for name, change in their_changes.items() if not without_gradient(name)), "nothing was trained"
    worst = departures(our_changes, their_changes)
    assert max(worst.values()) < TOLERANCE, sorted(worst.items(), key=lambda item: -item[1])[:5]
    for name in filter(without_gradient, our_changes):
        for changes in (our_changes, their_changes):
            kernel = changes[name.replace("bias", "kernel")]
            # Adam makes a step of any gradient, so of rounding too: at most its rate an update, ten updates of the critic.
            limit = 10 * RATES["adam"] if optimizer == "adam" else 1e-3 * np.abs(kernel).max()
            assert np.abs(changes[name]).max() <= 1.01 * limit, name


def take_keras_step(start, backend):
    """Run the step with both optimisers in another process. Returns a function of the optimiser."""
    argv = [sys.executable, str(Path(__file__).parents[1] / "keras_step.py"), str(start[0]), *RATES]
    done = subprocess.run(argv, env=tiny.environment(KERAS_BACKEND=backend), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return functools.partial(step_keras, start, backend)


@pytest.fixture(scope="module")
def keras_reference(start):
    """Run the step on TensorFlow, the back end of the Keras reference."""
    pytest.importorskip("tensorflow")
    return take_keras_step(start, "tensorflow")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_step_changes_both_networks_as_keras_does(keras_reference, our_step, optimizer):
    assert_same_step(our_step(optimizer), keras_reference(optimizer), optimizer)


WRONG = [
    ("sgd", {"critic_update": "joint"}),
    ("sgd", {"fake_mode": "train"}),
    ("sgd", {"critic_norm_in_generator_step": "batch"}),
    ("adam", {"adam_form": "optax"}),
]


@pytest.mark.parametrize(("optimizer", "change"), WRONG)
def test_another_recipe_would_be_seen(keras_reference, our_step, optimizer, change):
    with pytest.raises(AssertionError):
        assert_same_step(our_step(optimizer, **change), keras_reference(optimizer), optimizer)


def test_networks_that_did_not_learn_would_be_seen(keras_reference):
    changes, _ = keras_reference("sgd")
    assert min(departures({name: np.zeros_like(change) for name, change in changes.items()}, changes).values()) == 1


@pytest.mark.soak
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_other_back_ends_take_the_same_step(start, our_step, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    theirs = take_keras_step(start, backend)
    for optimizer in RATES:
        assert_same_step(our_step(optimizer), theirs(optimizer), optimizer)


@pytest.mark.parametrize("kind", [Generator, Critic])
def test_a_keras_model_is_read_back_as_it_was_written(pair, kind):
    module, variables, model, batch = pair
    jax.tree.map(np.testing.assert_array_equal, from_model(model, module, image_size=batch.shape[1]), variables)
