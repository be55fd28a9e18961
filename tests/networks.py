"""Networks for tests: images, variables without a compilation, and compilations without optimisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compiles():
    """Tiny networks run fast enough as they are: half the time of compiling them is spent on optimising. For modules that import it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def images(batch=1, height=32, width=32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (batch, height, width, 3)).astype(np.float32))


def draw_variables(module, *arguments, seed=0):
    """Variables as `init` would make them (kernels of variance 2 / (fan in + fan out), biases 0), without compiling it."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            fan = np.prod(leaf.shape[:-2]) * sum(leaf.shape[-2:])
            return jnp.asarray(rng.normal(0, np.sqrt(2 / fan), leaf.shape).astype(np.float32))
        return jnp.full(leaf.shape, float(path[-1].key in ("scale", "var")), leaf.dtype)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    return jax.tree_util.tree_map_with_path(draw, {name: shapes[name] for name in ("params", "batch_stats") if name in shapes})
