"""What the compiled training step of the paper's recipe needs."""

import jax
import pytest

from drsn_jax.config.build import frozen_shapes, make_training
from drsn_jax.config.files import load_config

LIMIT = 1.5e9  # bytes: issue 1/5


@pytest.mark.soak
def test_the_papers_step_at_256_fits_in_one_and_a_half_gigabytes():
    config = load_config("paper")
    training = make_training(config, num_train_steps=10)
    state = jax.eval_shape(training.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), "float32")
    batch = {"blurred": images, "sharp": images}
    compiled = jax.jit(training.train_step, donate_argnums=0).lower(state, batch, frozen_shapes(config)).compile()
    memory = compiled.memory_analysis()
    if memory is None:
        pytest.skip("this back end does not report memory needs")
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    assert 0.2e9 < used < LIMIT, f"{used / 1e9:.2f} GB"  # the state alone, with two moments of each parameter, is 0.19 GB
