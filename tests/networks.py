"""Networks for tests: images, variables and states without a compilation, and compilations without optimisation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsn_jax.config.build import make_generator
from drsn_jax.config.files import load_config
from drsn_jax.weights.compact import write_compact


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    """Tiny networks run fast enough as they are: half the time of compiling them is spent on optimising. For modules that import it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def images(batch=1, height=32, width=32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (batch, height, width, 3)).astype(np.float32))


def draw_leaf(rng, path, leaf):
    """Draw a parameter or statistic by its name: kernels of variance 2 / (fan in + fan out), biases and means 0, scales and variances 1."""
    if path[-1].key == "kernel":
        fan = np.prod(leaf.shape[:-2]) * sum(leaf.shape[-2:])
        return jnp.asarray(rng.normal(0, np.sqrt(2 / fan), leaf.shape).astype(np.float32))
    return jnp.asarray(np.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype))


def draw_variables(module, *arguments, seed=0):
    """Draw variables as `init` would make them, without compiling it."""
    draw = partial(draw_leaf, np.random.default_rng(seed))
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    return {name: jax.tree_util.tree_map_with_path(draw, shapes[name]) for name in ("params", "batch_stats") if name in shapes}


def write_model(folder, *changes):
    """Write a compact model of random weights, of `default` with changes. Returns the folder for --model."""
    config = load_config("default", [f"--config.{change}" for change in ("widths=4,6,8", "num_blocks=1", *changes)])
    generator = make_generator(config)
    variables = draw_variables(generator, images(1, generator.stride, generator.stride))
    fields = {"ema_params": variables["params"], "generator_stats": variables.get("batch_stats", {})}
    write_compact(folder, fields=fields, config=config, step=1)
    return folder


def draw_state(init, seed=0):
    """Draw a TrainState as `init(key)` would make it, without compiling it."""
    draw = partial(draw_leaf, np.random.default_rng(seed))
    shapes = jax.eval_shape(init, jax.random.key(0))
    names = ("generator_params", "generator_stats", "critic_params", "critic_stats")
    drawn = {name: jax.tree_util.tree_map_with_path(draw, getattr(shapes, name)) for name in names}
    moments = {
        name: jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), getattr(shapes, name))
        for name in ("generator_opt_state", "critic_opt_state")
    }
    ema_params = jax.tree.map(jnp.copy, drawn["generator_params"]) if shapes.ema_params else {}
    return shapes.replace(step=jnp.zeros([], jnp.int32), rng=jax.random.key(1), ema_params=ema_params, **drawn, **moments)
