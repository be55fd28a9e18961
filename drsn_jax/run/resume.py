"""The first state of a run: the newest checkpoint, converted to the current format, or a new state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from drsn_jax.config.build import make_keys
from drsn_jax.run.checkpoint import Checkpoints
from drsn_jax.run.reading import DATA_KEYS
from drsn_jax.run.warm_start import start_from
from drsn_jax.run.writer import say
from drsn_jax.system.errors import InputError
from drsn_jax.system.processes import first_process
from drsn_jax.training.optimizer import restart_moments
from drsn_jax.training.sharding import replicate, replicated, with_sharding
from drsn_jax.training.state import TrainState
from drsn_jax.weights.shipped import find_model

InitFn = Callable[[PRNGKeyArray], TrainState]


def resume_or_init(init: InitFn, checkpoints: Checkpoints, *, config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> TrainState:
    """Return the state of the newest readable checkpoint, or a new one, on every device.

    If the optimiser or the drawing of data has changed since, the networks, running mean and step are kept. A message lists the parts that
    start anew. Raises InputError if processes read different checkpoints.
    """
    rng = replicate(make_keys(config["seed"]).state, mesh)
    found = checkpoints.restore(with_sharding(jax.eval_shape(init, rng), replicated(mesh)), say=say)
    step = None if found is None else int(found.state.step)
    if (first := first_process(lambda: step)) != step:
        raise InputError(f"Process 0 goes on from step {first}, process {jax.process_index()} from {step}; give all one shared --workdir.")
    if found is not None:
        say(f"Resumed from step {step}.")
        if found.data_keys < DATA_KEYS and draws_changed(config):
            say(f"Step {step} was stored before each random draw had a key of its own: from here on the batches are drawn anew.")
        return _restart_outdated(found.state, found.outdated, init, rng=rng, mesh=mesh)
    state = jax.jit(init, out_shardings=replicated(mesh))(rng)
    if not config["init_from"]:
        return state
    say(f"Starting with the weights of {config['init_from']}.")
    return start_from(state, find_model(config["init_from"]))


def draws_changed(config: Mapping[str, Any]) -> bool:
    """Return whether the batches of a seed differ from those before `DATA_KEYS` was 2, because a draw used a shared key.

    These draws were the softness of photographs, the middle of a path and the share of images with noise. Pairs through tf.data have
    another generator.
    """
    blurred = config["data"] in ("photos", "demo")
    shared = blurred and (config["blur_softness"][1] > 0 or (config["blur_moment"] == "middle" and config["blur_length"][1] > 0))
    return shared or (config["data"] != "pairs" and config["noise_share"] < 1 and config["noise_variance"][1] > 0)


def _restart_outdated(
    state: TrainState, outdated: Mapping[str, int], init: InitFn, *, rng: jax.Array, mesh: jax.sharding.Mesh
) -> TrainState:
    for name, updates in sorted(outdated.items()):
        network, what = name.removesuffix("_opt_state"), "networks, running mean, step and learning rate are kept"
        say(f"The optimiser of the {network} differs from the stored one, so its moments start anew; {what}.")

        def make_fresh(rng: jax.Array, name: str = name, updates: int = updates) -> Any:
            return restart_moments(getattr(init(rng), name), updates=updates)

        state = state.replace(**{name: jax.jit(make_fresh, out_shardings=replicated(mesh))(rng)})  # pyright: ignore[reportAttributeAccessIssue]
    return state
