"""The rows in this package: jitted functions on a batch on the device; the results of each call are awaited."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from drsn_jax.benchmark.prepared import Prepared, find_best_batch, process_peak_bytes
from drsn_jax.benchmark.rows import Row
from drsn_jax.benchmark.workload import count_row_macs
from drsn_jax.config.build import count_parts, make_generator, make_keys, make_parts, make_step_spec, make_training
from drsn_jax.system.errors import InputError
from drsn_jax.training.critic import CriticState, Metrics, loop_critic_updates, score
from drsn_jax.training.generator import differentiate, forward, update_generator
from drsn_jax.training.state import TrainState
from drsn_jax.training.step import Batch, TrainStep
from drsn_jax.weights.vgg19 import load_frozen

Config = Mapping[str, Any]


def describe_device() -> dict[str, Any]:
    """Describe JAX's default device."""
    device = jax.devices()[0]
    return {"platform": device.platform, "device": device.device_kind}


def peak_bytes() -> int | None:
    """Return the peak memory so far: of the accelerator, or of the process on a CPU."""
    statistics = jax.devices()[0].memory_stats()
    return statistics.get("peak_bytes_in_use") if statistics else (process_peak_bytes() if jax.default_backend() == "cpu" else None)


def prepare(row: Row, *, config: Config, folder: str) -> Prepared:
    """Prepare the call of a row. `config` has a batch and a crop size, no stages; `folder` holds the pairs for the input pipeline.

    Raises InputError if the row does not apply to the configuration.
    """
    if row.name == "input-pipeline":
        from drsn_jax.benchmark.loader_rows import prepare_ours

        return prepare_ours(folder, config=config)
    if row.name == "best-batch":
        return _prepare_best(config)
    make_call = {"training-step": make_step_call, "critic-part": _make_critic_call, "generator-part": _make_generator_call}
    stride = make_generator(config).stride
    height, width = (-(-length // stride) * stride for length in row.frame or (config["crop_size"], config["crop_size"]))
    size = (height, width)  # rounded up to a size that the network takes, as `restore` does
    call = make_call[row.name](config) if row.name in make_call else make_inference_call(config, size=size)
    return Prepared(call, config["batch_size"], count_row_macs(row.name, config=config, size=size))


def make_ceiling(dtype: str) -> Callable[[], float]:
    """Build a measurement of the device's peak in FLOP/s: a matrix product, 2048 wide on a CPU and 8192 on an accelerator."""
    width, times = (2048, 4) if jax.default_backend() == "cpu" else (8192, 10)
    a, b = (jax.random.normal(key, (width, width), jnp.dtype(dtype)) for key in jax.random.split(jax.random.key(0)))
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(a, b))

    def measure() -> float:
        start = time.perf_counter()
        jax.block_until_ready([multiply(a, b) for _ in range(times)])
        return times * 2 * width**3 / (time.perf_counter() - start)

    return measure


def make_step_call(config: Config) -> Callable[[], None]:
    """Make a call that runs one training step; each step's state is donated to the next."""
    training = make_training(config, num_train_steps=config["num_train_steps"])
    batch = _draw_batch(config, rows=config["batch_size"] * count_parts(config))
    return _stepping(jax.jit(training.train_step, donate_argnums=0), _init_state(config), batch, load_frozen(config))


def make_inference_call(config: Config, *, size: tuple[int, int]) -> Callable[[], np.ndarray]:
    """Make a call that restores a batch of height x width images and copies the result to the host, as in Keras."""
    generator = make_generator(config)
    blurred = _draw_images(config["batch_size"], size, seed=0)
    state = jax.jit(generator.init)(jax.random.key(config["seed"]), blurred)
    apply = jax.jit(generator.apply)
    return lambda: np.asarray(apply(state, blurred))


def make_critic_part(config: Config) -> Callable[[CriticState, Batch], tuple[CriticState, Metrics]]:
    """Make the critic's updates of one step, pure: (critic_state, batch) -> (critic_state, metrics).

    They use `sharp` and `restored` of the batch.

    Raises InputError if the configuration does not train the critic.
    """
    if not config["adversarial_weight"]:
        raise InputError("adversarial_weight=0 does not train the critic, so this row does not apply.")
    parts, spec = make_parts(config, num_train_steps=config["num_train_steps"]), make_step_spec(config)

    def critic_part(critic_state: CriticState, batch: Batch) -> tuple[CriticState, Metrics]:
        data = batch["sharp"], batch["restored"]
        return loop_critic_updates(critic_state, lambda i: data, parts=parts, spec=spec, key=jax.random.key(0))

    return critic_part


def make_generator_part(config: Config) -> Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]:
    """Make the generator's forward pass and update with a fixed critic, pure: (state, batch, frozen) -> (state, metrics)."""
    parts, spec = make_parts(config, num_train_steps=config["num_train_steps"]), make_step_spec(config)

    def generator_part(state: TrainState, batch: Batch, frozen: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.rng, state.step)
        forward_pass = forward(parts.generator, state.generator_params, state.generator_stats, batch["blurred"], key=key)

        def score_fn(images: jax.Array) -> jax.Array:
            train = config["critic_norm_in_generator_step"] == "batch"
            return score(parts.critic, state.critic_params, state.critic_stats, images, train=train)[0]

        losses = {"spec": spec, "score_fn": score_fn, "features_fn": partial(parts.features_fn, frozen)}
        grads, stats, metrics = differentiate(forward_pass, batch["sharp"], **losses)
        changes = update_generator(state, grads, stats, tx=parts.generator_tx, ema_decay=config["ema_decay"])
        return replace(state, step=state.step + 1, **changes), metrics | {"generator/grad_norm": optax.tree.norm(grads)}

    return generator_part


def _make_critic_call(config: Config) -> Callable[[], None]:
    part = jax.jit(make_critic_part(config), donate_argnums=0)
    state, batch = _init_state(config), _draw_batch(config, rows=config["batch_size"])
    return _stepping(part, CriticState.of(state), {"sharp": batch["sharp"], "restored": batch["blurred"]})


def _make_generator_call(config: Config) -> Callable[[], None]:
    part = jax.jit(make_generator_part(config), donate_argnums=0)
    return _stepping(part, _init_state(config), _draw_batch(config, rows=config["batch_size"]), load_frozen(config))


def _prepare_best(config: Config) -> Prepared:
    def measure(batch: int) -> float:
        call = make_step_call({**config, "batch_size": batch})
        call()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    best = {**config, "batch_size": find_best_batch(measure, first=config["batch_size"])}
    size = (config["crop_size"], config["crop_size"])
    about = f"batch {best['batch_size']}"
    return Prepared(make_step_call(best), best["batch_size"], count_row_macs("training-step", config=best, size=size), about)


def _stepping(step: TrainStep | Callable[..., Any], state: Any, *arguments: Any) -> Callable[[], None]:
    def call() -> None:
        nonlocal state
        state, metrics = step(state, *arguments)
        jax.block_until_ready((state, metrics))

    return call


def _init_state(config: Config) -> TrainState:
    training = make_training(config, num_train_steps=config["num_train_steps"])
    return jax.jit(training.init)(make_keys(config["seed"]).state)


def _draw_batch(config: Config, *, rows: int) -> Batch:
    size = (config["crop_size"], config["crop_size"])
    return {name: _draw_images(rows, size, seed=seed) for seed, name in enumerate(("blurred", "sharp"))}


def _draw_images(rows: int, size: tuple[int, int], *, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (rows, *size, 3)), jnp.float32)
