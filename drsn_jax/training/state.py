"""The training state: one flat pytree, initialised and checkpointed as a whole."""

from typing import no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray

from drsn_jax.training.spec import Parts, PyTree, StepSpec


# Not checked at run time: transformations replace a pytree's leaves by shapes, shardings and stacked arrays.
@no_type_check
@struct.dataclass
class TrainState:
    """Everything that a run needs to resume bit for bit. `step` counts generator updates; `rng` is a stream, folded with the step."""

    step: Int[Array, ""]
    rng: PRNGKeyArray
    generator_params: PyTree
    generator_stats: PyTree  # batch statistics; {} without batch norm
    generator_opt_state: PyTree
    ema_params: PyTree  # running mean of generator_params; {} if off
    critic_params: PyTree
    critic_stats: PyTree
    critic_opt_state: PyTree

    @property
    def inference_params(self) -> PyTree:
        """The generator's parameters for restoring: the running mean if there is one."""
        return self.ema_params if jax.tree.leaves(self.ema_params) else self.generator_params

    @property
    def variables(self) -> dict[str, PyTree]:
        """The generator's variables for restoring, in Flax's form."""
        return {"params": self.inference_params, "batch_stats": self.generator_stats}


def init_state(rng: PRNGKeyArray, parts: Parts, spec: StepSpec, *, image_size: int) -> TrainState:
    """Make the state at step 0 from one key, for images of image_size x image_size. Pure, so it works under jit and eval_shape."""
    generator_key, critic_key, stream = jax.random.split(rng, 3)
    image = jnp.zeros((1, image_size, image_size, 3))
    generator_variables = parts.generator.init(generator_key, image)
    critic_variables = parts.critic.init(critic_key, image)
    generator_params = generator_variables["params"]
    return TrainState(
        step=jnp.zeros([], jnp.int32),
        rng=stream,
        generator_params=generator_params,
        generator_stats=generator_variables.get("batch_stats", {}),
        generator_opt_state=parts.generator_tx.init(generator_params),
        ema_params=jax.tree.map(jnp.copy, generator_params) if spec.ema_decay else {},
        critic_params=critic_variables["params"],
        critic_stats=critic_variables.get("batch_stats", {}),
        critic_opt_state=parts.critic_tx.init(critic_variables["params"]),
    )
