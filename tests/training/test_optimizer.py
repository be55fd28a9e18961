"""Adam in both forms, against optax and against Keras' formula written in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from drsn_jax.training.optimizer import make_optimizer, muon_dimensions, restart_moments


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
    """Compute Adam as in Keras 3, optimizers/adam.py: alpha = lr sqrt(1 - b2^t) / (1 - b1^t); w -= m alpha / (sqrt(v) + epsilon)."""
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


@pytest.mark.parametrize("options", [{"adam_form": "optax"}, {"adam_form": "keras"}, {"optimizer": "muon"}])
@pytest.mark.parametrize("groups", ["by_role", "by_shape"])
def test_weight_decay_is_decoupled_and_by_role_spares_biases_and_scales(groups, options):
    """Without gradients only decay is left: w (1 - rate * decay), whatever the moments; with them both add up."""
    params = kernels(0)
    zero = jax.tree.map(np.zeros_like, params)
    options = options | {"learning_rate_fn": lambda _: 0.1, "parameter_groups": groups}
    plain, decayed = (make_optimizer(weight_decay=decay, **options) for decay in (0.0, 0.05))
    still = run(decayed, [zero, zero], params)[-1]
    a, b = (run(tx, [kernels(1)], params)[-1] for tx in (plain, decayed))
    for name in params:
        decay = 0.0 if groups == "by_role" and name in ("bias", "scale") else 0.05
        np.testing.assert_allclose(still[name], params[name] * (1 - 0.1 * decay) ** 2, rtol=1e-6)
        np.testing.assert_allclose(b[name], a[name] - 0.1 * decay * params[name], rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize(("groups", "to_adam"), [("by_role", {"stem", "head"}), ("by_shape", set())])
def test_muon_leaves_stem_and_head_to_adam_by_role(groups, to_adam):
    """Adam's steps are of the gradient's signs at first, where Muon's are of its singular vectors."""
    names = ("stem", "block1", "down1", "head")
    params, gradients = ({name: {"conv": kernels(seed + i)} for i, name in enumerate(names)} for seed in (0, 10))
    options = {"learning_rate_fn": lambda _: 0.01, "beta1": 0.8, "beta2": 0.9, "epsilon": 0.1, "parameter_groups": groups}
    muon = run(make_optimizer(optimizer="muon", **options), [gradients], params)[-1]
    adam = run(optax.adamw(0.01, b1=0.8, b2=0.9, eps=0.1, weight_decay=0.0, nesterov=True), [gradients], params)[-1]
    for module in names:
        for name in ("kernel", "dense"):
            far = np.abs(muon[module]["conv"][name] - adam[module]["conv"][name]).max()
            assert far < 1e-6 if module in to_adam else far > 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_by_shape_is_the_optimiser_of_before(optimizer):
    """Bit for bit, and its state has the same tree: a run that was stored with it goes on."""
    options = {"learning_rate_fn": lambda count: 0.1 / (1 + count), "weight_decay": 0.05, "clip_norm": 1.0, "epsilon": 1e-6}
    now = make_optimizer(optimizer=optimizer, parameter_groups="by_shape", **options)
    if optimizer == "muon":
        decays = {"weight_decay": 0.05, "adam_weight_decay": 0.05}
        shapes = {"consistent_rms": 0.2, "muon_weight_dimension_numbers": muon_dimensions}
        rules = [optax.contrib.muon(options["learning_rate_fn"], eps=1e-6, **decays, **shapes)]
    else:
        rate = optax.scale_by_learning_rate(options["learning_rate_fn"])
        rules = [optax.scale_by_adam(eps=1e-6), optax.add_decayed_weights(0.05), rate]
    before = optax.chain(optax.clip_by_global_norm(1.0), *rules)
    params, gradients = kernels(0), [kernels(1), kernels(2)]
    assert jax.tree.structure(now.init(params)) == jax.tree.structure(before.init(params))
    for a, b in zip(run(now, gradients, params), run(before, gradients, params), strict=True):
        assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_the_moments_of_adam_fit_either_group():
    params = kernels(0)
    trees = [
        make_optimizer(learning_rate_fn=lambda _: 0.1, weight_decay=0.05, parameter_groups=g).init(params) for g in ("by_role", "by_shape")
    ]
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_moments_that_start_anew_leave_the_learning_rate_where_it_was(optimizer):
    tx = make_optimizer(learning_rate_fn=lambda count: jnp.where(count < 7, 0.0, 0.1), optimizer=optimizer)
    params, gradient = kernels(0), kernels(1)
    fresh = tx.init(params)
    state = restart_moments(fresh, updates=7)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    still, moved = (tx.update(gradient, each, params)[0] for each in (fresh, state))
    expected, _ = make_optimizer(learning_rate_fn=lambda _: 0.1, optimizer=optimizer).update(gradient, fresh, params)
    for name in params:
        assert not np.any(still[name])
        np.testing.assert_allclose(moved[name], expected[name], rtol=1e-6)


def test_muon_clips_too():
    params, outlier = kernels(0), jax.tree.map(lambda g: 100 * g, kernels(1))
    plain, clipped = (
        run(make_optimizer(learning_rate_fn=lambda _: 0.01, optimizer="muon", clip_norm=c), [outlier, kernels(2)], params)[-1]["kernel"]
        for c in (0.0, 1.0)
    )
    assert np.abs(plain - clipped).max() > 1e-3, "unclipped, the first gradient outweighs the second in the mean"
