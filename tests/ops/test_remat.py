"""Rematerialised blocks: the same network to its parameters, statistics, dropout and gradients, in less memory, and out of old runs too."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from networks import draw_variables, images, quick_compiles  # noqa: F401

from drsn_jax.config.values import ADDED
from drsn_jax.models.generator import Generator
from drsn_jax.ops.backend import CPU, PLAIN
from drsn_jax.ops.remat import recompute, sequence_after
from drsn_jax.training.generator import forward
from drsn_jax.weights.model import load_model

SMALL = {"widths": (4, 6, 8), "num_blocks": 2}
NETWORKS = {
    "the paper's": {"norm": "batch", "dropout": 0.5, **SMALL},
    "unet, classic, without shrinkage": {
        "trunk": "unet",
        "norm": "none",
        "block_order": "post",
        "shrinkage": False,
        "dropout": 0.5,
        **SMALL,
    },
}


def differentiate(generator, variables, blurred):
    """Everything that a training step takes from the generator's pass."""
    passed = forward(generator, variables["params"], variables.get("batch_stats", {}), blurred, key=jax.random.key(3))
    return passed.restored, passed.pullback(jnp.cos(7 * passed.restored)), passed.stats, passed.thresholds


@pytest.mark.parametrize(("options", "by_value"), list(zip(NETWORKS.values(), (True, False), strict=True)), ids=NETWORKS)
def test_the_same_values_statistics_thresholds_and_gradients(options, by_value):
    forms = CPU if by_value else PLAIN
    plain, remat = Generator(**options, forms=forms), Generator(remat=True, **options, forms=forms)
    variables, blurred = draw_variables(plain, images()), images(batch=2)
    assert jax.tree.structure(draw_variables(remat, images())) == jax.tree.structure(variables), "one checkpoint fits both"
    expected, got = (jax.jit(differentiate, static_argnums=0)(generator, variables, blurred) for generator in (plain, remat))
    assert jax.tree.structure(expected) == jax.tree.structure(got)
    np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected[1]))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * scale), got[1], expected[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), got[2:], expected[2:])
    assert (len(jax.tree.leaves(got[2])) > 0) == (options["norm"] == "batch")
    assert len(jax.tree.leaves(got[3])) == (2 if options.get("shrinkage", True) else 0)


def test_memory_shrinks():
    """Compiled with all optimisations: with them XLA's CPU back end undoes `jax.checkpoint`."""
    needed = []
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        for remat in (False, True):
            generator = Generator(widths=(8, 8, 8), num_blocks=3, trunk="unet", norm="none", dropout=0.0, remat=remat)
            blurred = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
            variables = jax.eval_shape(generator.init, jax.random.key(0), blurred)
            compiled = jax.jit(lambda v, x, g=generator: differentiate(g, v, x)[:2]).lower(variables, blurred).compile()
            needed.append(compiled.memory_analysis().temp_size_in_bytes)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    assert needed[1] < 0.75 * needed[0], needed


def test_restoring_is_untouched():
    plain, remat = Generator(**SMALL), Generator(remat=True, **SMALL)
    variables = draw_variables(plain, images())
    first, second = (str(jax.make_jaxpr(generator.apply)(variables, images())) for generator in (plain, remat))
    assert first == second


def test_recompute_differentiates_by_real_arguments_alone_and_through_every_output():
    def function(tree, key, number):
        noise = jax.random.normal(key, tree["a"].shape)
        return {"y": jnp.sin(tree["a"] * noise) * number.astype(jnp.float32), "count": number + 1}, tree["b"] ** 2

    def total(wrap, a, b):
        outputs, square = wrap(function)({"a": a, "b": b}, jax.random.key(0), jnp.int32(3))
        return outputs["y"].sum() + square.sum() * 2 + outputs["count"].astype(jnp.float32)

    a, b = jnp.arange(4.0), jnp.arange(3.0)
    expected = jax.value_and_grad(lambda *x: total(lambda f: f, *x), (0, 1))(a, b)
    got = jax.value_and_grad(lambda *x: total(recompute, *x), (0, 1))(a, b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got, expected)


def test_sequencing_changes_nothing_but_what_is_not_finite():
    tree = {"x": jnp.arange(3.0), "n": jnp.arange(3), "key": jax.random.key(5)}
    hold = partial(sequence_after, by_value=True)
    held = jax.jit(hold)(tree, [jnp.full((2, 2), 7.0), jnp.float32(-1)])
    assert np.array_equal(held["x"], tree["x"])
    assert np.array_equal(held["n"], tree["n"])
    assert held["n"].dtype == tree["n"].dtype
    assert np.array_equal(jax.random.bits(held["key"]), jax.random.bits(tree["key"]))
    assert np.isnan(hold(tree, jnp.array([jnp.nan]))["x"]).all(), "a gradient that is none stays one"


@pytest.fixture(scope="module")
def old_run(tmp_path_factory, photograph):
    """Make a run of two steps, as stored before these keys existed."""
    workdir = tmp_path_factory.mktemp("old") / "run"
    shutil.copytree(tiny.trained(tmp_path_factory, photograph), workdir)
    for path in (workdir / "config.json", *workdir.glob("checkpoints/*/config/metadata")):
        stored = json.loads(path.read_text())
        assert set(stored) >= set(ADDED)
        path.write_text(json.dumps({key: value for key, value in stored.items() if key not in ADDED}))
    return workdir


def test_an_old_run_restores_and_goes_on_with_remat(old_run, tmp_path_factory, photograph):
    image = np.asarray(images(height=32, width=32))
    fresh = tiny.trained(tmp_path_factory, photograph)
    np.testing.assert_allclose(load_model(old_run).predict_fn(image), load_model(fresh).predict_fn(image), atol=1e-6)

    photos = json.loads((old_run / "config.json").read_text())["train_dir"]
    changed = tiny.command(
        *tiny.train_arguments(old_run, data="photos", train_dir=photos, num_train_steps=3, accumulation_steps=2, **tiny.UNET)
    )
    assert changed.returncode == 2
    assert "accumulation_steps was 1, now 2" in changed.stderr
    done = tiny.command(*tiny.train_arguments(old_run, data="photos", train_dir=photos, num_train_steps=3, remat=True, **tiny.UNET))
    assert done.returncode == 0, done.stderr
    assert "Resumed from step 2." in done.stdout
    assert "remat was False before, True now: the same to rounding" in done.stdout
    assert "accumulation_steps was" not in done.stdout
    assert sorted(tiny.losses(old_run)) == [1, 2, 3]
