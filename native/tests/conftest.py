"""Eight CPU devices before jax starts, and shapes that are left to oneDNN although they are small."""

import os

import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = xla_flags.with_given(xla_flags.QUICK)
os.environ.setdefault("NPROC", "32")  # threads of a pool in which eight devices wait for each other

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsn_jax_native import choice

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def always(monkeypatch):
    """Let oneDNN compute everything, even without a gain."""
    monkeypatch.setattr(choice, "gains", lambda kind, **_: True)


@pytest.fixture
def draw():
    """Return draw(shape, dtype), which makes a new seeded normal array with each call."""
    rng = np.random.default_rng(0)
    return lambda *shape, dtype=jnp.float32: jnp.asarray(rng.normal(size=shape), dtype)
