"""Adam in both forms, against optax and against Keras' formula written in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from drsn_jax.training.optimizer import make_optimizer


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {"kernel": (scale * rng.normal(size=(4, 3))).astype(np.float32), "bias": (scale * rng.normal(size=3)).astype(np.float32)}


def run(tx, gradients, params):
    state, history = tx.init(params), []
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def keras_adam(gradients, params, *, rate, beta1=0.9, beta2=0.999, epsilon=1e-7):
    """Keras 3, optimizers/adam.py: alpha = lr sqrt(1 - b2^t) / (1 - b1^t); w -= m alpha / (sqrt(v) + epsilon)."""
    params = {name: p.astype(np.float64) for name, p in params.items()}
    m, v = ({name: np.zeros_like(p) for name, p in params.items()} for _ in range(2))
    history = []
    for t, gradient in enumerate(gradients, start=1):
        alpha = rate(t - 1) * np.sqrt(1 - beta2**t) / (1 - beta1**t)
        for name, g in gradient.items():
            m[name] += (g - m[name]) * (1 - beta1)
            v[name] += (g.astype(np.float64) ** 2 - v[name]) * (1 - beta2)
            params[name] = params[name] - m[name] * alpha / (np.sqrt(v[name]) + epsilon)
        history.append(dict(params))
    return history


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_keras_form_over_several_steps(scale):
    def rate(t):
        return 0.01 * (1 + t)

    params, gradients = tree(0), [tree(i, scale) for i in range(1, 8)]
    seen = run(make_optimizer(learning_rate_fn=rate, adam_form="keras"), gradients, params)
    for ours, theirs in zip(seen, keras_adam(gradients, params, rate=rate), strict=True):
        for name in params:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("adam_form", ["optax", "keras"])
def test_a_state_that_was_not_made_under_jit_can_be_donated(adam_form):
    tx = make_optimizer(learning_rate_fn=lambda _: 0.01, adam_form=adam_form)
    gradient = tree(0)
    _, state = jax.jit(tx.update, donate_argnums=1)(gradient, tx.init(tree(1)))
    np.testing.assert_allclose(jax.tree.leaves(optax.tree.get(state, "mu"))[0], 0.1 * gradient["bias"], rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_optax_form_is_optax_adam(scale):
    params, gradients = tree(0), [tree(i, scale) for i in range(1, 6)]
    ours = run(make_optimizer(learning_rate_fn=lambda _: 0.01, beta1=0.5, beta2=0.9, epsilon=1e-6), gradients, params)
    theirs = run(optax.adam(0.01, b1=0.5, b2=0.9, eps=1e-6), gradients, params)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_forms_differ_fourfold_at_gradients_of_a_millionth():
    """|g| = 1e-6: optax 1e-6 / (1e-6 + 1e-7); Keras 1e-6 / (1e-6 + 1e-7 / sqrt(0.001)): 0.909 against 0.240 of the learning rate."""
    first = {}
    for form in ("optax", "keras"):
        tx = make_optimizer(learning_rate_fn=lambda _: 1.0, adam_form=form)
        params = {"w": jnp.zeros(1)}
        updates, _ = tx.update({"w": jnp.full(1, 1e-6)}, tx.init(params), params)
        first[form] = -float(updates["w"][0])
    assert first["optax"] == pytest.approx(1 / 1.1, rel=1e-3)
    assert first["keras"] == pytest.approx(1 / (1 + 0.1 / np.sqrt(0.001)), rel=1e-3)
    assert 3.5 < first["optax"] / first["keras"] < 4.5


@pytest.mark.parametrize("form", ["optax", "keras"])
def test_forms_agree_at_ordinary_gradients(form):
    params, gradients = tree(0), [tree(i) for i in range(1, 4)]
    ours = run(make_optimizer(learning_rate_fn=lambda _: 0.01, adam_form=form), gradients, params)[-1]
    theirs = run(optax.adam(0.01, eps=1e-7), gradients, params)[-1]
    for name in params:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-4)


@pytest.mark.parametrize("form", ["optax", "keras"])
def test_weight_decay_is_decoupled(form):
    """Without gradients only decay is left: w (1 - rate * decay), whatever the moments; with them both add up."""
    params = tree(0)
    zero = jax.tree.map(np.zeros_like, params)
    plain, decayed = (make_optimizer(learning_rate_fn=lambda _: 0.1, adam_form=form, weight_decay=d) for d in (0.0, 0.05))
    still = run(decayed, [zero, zero], params)[-1]
    a, b = (run(tx, [tree(1)], params)[-1] for tx in (plain, decayed))
    for name in params:
        np.testing.assert_allclose(still[name], params[name] * (1 - 0.1 * 0.05) ** 2, rtol=1e-6)
        np.testing.assert_allclose(b[name], a[name] - 0.1 * 0.05 * params[name], rtol=1e-4, atol=1e-6)


def test_clip_norm_scales_the_whole_gradient():
    """Two Adams that differ in one long gradient agree if it is clipped to the short one."""
    params, gradient = tree(0), tree(1)
    norm = float(optax.global_norm(gradient))
    short = jax.tree.map(lambda g: g * np.float32(0.5 / norm), gradient)
    small = tree(3, 0.01)
    clipped = run(make_optimizer(learning_rate_fn=lambda _: 0.01, clip_norm=0.5), [gradient, small], params)[-1]
    expected = run(make_optimizer(learning_rate_fn=lambda _: 0.01), [short, small], params)[-1]
    other = run(make_optimizer(learning_rate_fn=lambda _: 0.01), [gradient, small], params)[-1]
    for name in params:
        np.testing.assert_allclose(clipped[name], expected[name], rtol=1e-5)
    assert max(np.abs(clipped[name] - other[name]).max() for name in params) > 1e-4


def test_the_learning_rate_follows_the_count_of_updates():
    tx = make_optimizer(learning_rate_fn=lambda count: jnp.where(count < 2, 0.0, 0.1))
    params = tree(0)
    history = run(tx, [tree(1)] * 3, params)
    np.testing.assert_array_equal(history[1]["kernel"], params["kernel"])
    assert np.abs(history[2]["kernel"] - params["kernel"]).max() > 0.05


def test_states_are_pytrees_of_fixed_structure():
    for form in ("optax", "keras"):
        tx = make_optimizer(learning_rate_fn=lambda _: 0.01, adam_form=form, weight_decay=0.1, clip_norm=1.0)
        params = jax.tree.map(jnp.asarray, tree(0))
        state = tx.init(params)
        _, after = jax.jit(tx.update)(params, state, params)
        assert jax.tree.structure(state) == jax.tree.structure(after)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(lambda x: (x.shape, x.dtype), after)


def kernels(seed):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 3, 8, 12), "dense": (16, 4), "bias": (12,), "scale": ()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_muon_makes_steps_of_kernels_orthogonal_and_as_large_as_adams():
    """Against numpy's singular values: the step is the gradient with all of them near 1, (height width in) x out, and a known size."""
    params, gradient = kernels(0), kernels(1)
    (after,) = run(make_optimizer(learning_rate_fn=lambda _: 0.01, optimizer="muon"), [gradient], params)
    for name, rows in (("kernel", 72), ("dense", 16)):
        step = np.asarray(after[name] - params[name], np.float64).reshape(rows, -1)
        left, _, right = np.linalg.svd(gradient[name].reshape(rows, -1).astype(np.float64), full_matrices=False)
        values = np.linalg.svd(step, compute_uv=False) / (0.01 * 0.2 * np.sqrt(rows))
        assert 0.6 < values.min() <= values.max() < 1.3
        polar = left @ right
        assert -(step * polar).sum() / np.linalg.norm(step) / np.linalg.norm(polar) > 0.97
        assert np.sqrt(np.square(step).mean()) == pytest.approx(0.01 * 0.2, rel=0.3), "as Adam's: 0.2 of the learning rate"


def test_muon_leaves_biases_and_scales_to_adam():
    params, gradients = kernels(0), [kernels(1), kernels(2)]
    options = {"optimizer": "muon", "beta1": 0.8, "beta2": 0.9, "epsilon": 0.1}
    muon = run(make_optimizer(learning_rate_fn=lambda _: 0.01, **options), gradients, params)[-1]
    adam = run(optax.adamw(0.01, b1=0.8, b2=0.9, eps=0.1, weight_decay=0.0, nesterov=True), gradients, params)[-1]
    for name in ("bias", "scale"):
        np.testing.assert_allclose(muon[name], adam[name], rtol=1e-5)
        assert np.abs(muon[name] - params[name]).max() > 1e-3


def test_muon_decays_and_clips_too():
    params, zero = kernels(0), jax.tree.map(np.zeros_like, kernels(0))
    decayed = run(make_optimizer(learning_rate_fn=lambda _: 0.1, optimizer="muon", weight_decay=0.05), [zero], params)[-1]
    for name in params:
        np.testing.assert_allclose(decayed[name], params[name] * (1 - 0.1 * 0.05), rtol=1e-6)
    outlier = jax.tree.map(lambda g: 100 * g, kernels(1))
    plain, clipped = (
        run(make_optimizer(learning_rate_fn=lambda _: 0.01, optimizer="muon", clip_norm=c), [outlier, kernels(2)], params)[-1]["kernel"]
        for c in (0.0, 1.0)
    )
    assert np.abs(plain - clipped).max() > 1e-3, "unclipped, the first gradient outweighs the second in the mean"
