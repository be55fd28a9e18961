"""The rows in idiomatic Keras on the back end of KERAS_BACKEND: `keras_models` and `keras_training`.

Importing this module imports keras, so only a worker does. Each call ends with numbers on the host, so no work is left running.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from drsn_jax.benchmark import keras_training
from drsn_jax.benchmark.prepared import Prepared, find_best_batch, process_peak_bytes
from drsn_jax.benchmark.rows import Row
from drsn_jax.config.build import make_critic, make_generator
from drsn_jax.interop import keras_models
from drsn_jax.interop.keras import keras_options

Config = Mapping[str, Any]
BACKEND: str = keras.backend.backend()
keras.config.set_floatx("float32")  # overrides the user's keras.json
keras.config.set_image_data_format("channels_last")


def describe_device() -> dict[str, Any]:
    """Describe the device of the back end."""
    if BACKEND == "jax":
        import jax

        return {"platform": jax.devices()[0].platform, "device": jax.devices()[0].device_kind}
    if BACKEND == "torch":
        import torch  # pyright: ignore[reportMissingImports]

        gpu = torch.cuda.is_available()
        return {"platform": "gpu" if gpu else "cpu", "device": torch.cuda.get_device_name() if gpu else "cpu"}
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        if devices := tf.config.list_physical_devices(kind):
            details = tf.config.experimental.get_device_details(devices[0])
            return {"platform": kind.lower(), "device": details.get("device_name", devices[0].name)}
    return {"platform": "cpu", "device": "cpu"}


def peak_bytes() -> int | None:
    """Return the peak memory so far: of the accelerator, or of the process on a CPU; None if the back end does not report it."""
    platform = describe_device()["platform"]
    if platform == "cpu":
        return process_peak_bytes()
    if BACKEND == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if BACKEND == "torch":
        import torch  # pyright: ignore[reportMissingImports]

        return torch.cuda.max_memory_allocated()
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"] if platform == "gpu" else None


def prepare(row: Row, *, config: Config, folder: str) -> Prepared:
    """Prepare the call of a row, with networks as configured. Raises InputError if they have no Keras form.

    With dtype=bfloat16 the networks compute under Keras' policy mixed_bfloat16: weights, optimiser and losses stay in float32.
    """
    del folder
    with _policy("mixed_bfloat16" if config["dtype"] == "bfloat16" else "float32"):
        if row.name == "best-batch":
            return _prepare_best(config)
        make_call = {"training-step": _make_step_call, "critic-part": _make_critic_call, "generator-part": _make_generator_call}
        size = row.frame or (config["crop_size"], config["crop_size"])
        call = make_call[row.name](config) if row.name in make_call else _make_inference_call(config, size=size)
        return Prepared(call, config["batch_size"])


@contextmanager
def _policy(name: str) -> Iterator[None]:
    """Set the policy of Keras for the layers that are made in the block; they keep it afterwards."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _make_step_call(config: Config) -> Callable[[], Any]:
    networks, loop = _make_loop(config)
    blurred, sharp = _draw_batch(config)
    return _settled(lambda: loop.train(blurred, sharp), networks)


def _make_critic_call(config: Config) -> Callable[[], Any]:
    networks, loop = _make_loop(config)
    restored, sharp = _draw_batch(config)
    return _settled(lambda: loop.critic_part(sharp, restored), networks)


def _make_generator_call(config: Config) -> Callable[[], Any]:
    networks, loop = _make_loop(config)
    blurred, sharp = _draw_batch(config)
    return _settled(lambda: loop.generator_part(blurred, sharp), networks)


def _make_inference_call(config: Config, *, size: tuple[int, int]) -> Callable[[], Any]:
    generator = keras_models.make_generator(**keras_options(make_generator(config)))
    jit: Any = keras_training.choose_jit()
    generator.compile("sgd", jit_compile=jit)  # as in the training loop; the optimiser is unused
    blurred = _draw_images(config["batch_size"], size, seed=0)
    return lambda: np.asarray(generator.predict_on_batch(blurred))


def _make_loop(config: Config) -> tuple[list[keras.Model], keras_training.TrainingLoop]:
    generator = keras_models.make_generator(**keras_options(make_generator(config)))
    critic = keras_models.make_critic(**keras_options(make_critic(config)), image_size=config["crop_size"])
    features = keras_models.make_features(config["content_layer"], content_input=config["content_input"], vgg19=config["vgg19"])
    adam = {"beta_2": config["beta2"], "epsilon": config["epsilon"]}
    loop = keras_training.make_training_loop(
        generator,
        critic,
        features,
        generator_optimizer=keras.optimizers.Adam(config["learning_rate"], beta_1=config["beta1"], **adam),
        critic_optimizer=keras.optimizers.Adam(config["critic_learning_rate"], beta_1=config["critic_beta1"], **adam),
        **{key: config[key] for key in ("content_weight", "adversarial_weight", "critic_steps")},
    )
    return [generator, critic], loop


def _prepare_best(config: Config) -> Prepared:
    def measure(batch: int) -> float:
        keras.backend.clear_session()
        call = _make_step_call({**config, "batch_size": batch})
        for _ in range(2):
            call()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    batch = find_best_batch(measure, first=config["batch_size"])
    keras.backend.clear_session()
    return Prepared(_make_step_call({**config, "batch_size": batch}), batch, about=f"batch {batch}")


def _settled(call: Callable[[], Any], networks: list[keras.Model]) -> Callable[[], Any]:
    """Wait for the updates too: a loss on the host only proves that the forward pass has finished."""

    def settled() -> Any:
        result = call()
        for network in networks:
            ops.convert_to_numpy(network.weights[-1])
        return result

    return settled


def _draw_batch(config: Config) -> tuple[Any, Any]:
    size = (config["crop_size"], config["crop_size"])
    return _draw_images(config["batch_size"], size, seed=0), _draw_images(config["batch_size"], size, seed=1)


def _draw_images(rows: int, size: tuple[int, int], *, seed: int) -> Any:
    return ops.convert_to_tensor(np.random.default_rng(seed).uniform(-1, 1, (rows, *size, 3)).astype(np.float32))
