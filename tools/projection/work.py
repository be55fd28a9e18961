"""The work of a training step on a device, from the step itself: nominal multiply-adds, and its program compiled for several devices."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from drsn_jax.config.build import count_parts, frozen_shapes, make_training
from drsn_jax.ops.backend import PLAIN
from drsn_jax.ops.costs import count_macs
from drsn_jax.planning.memory import Line, smallest_batch
from drsn_jax.system.errors import InputError
from drsn_jax.training.sharding import over_data, replicated, with_sharding
from projection.model import Work
from projection.program import Movement, read_movement

DEVICES = 8


def measure_work(config: Mapping[str, Any], *, crop_size: int) -> Work:
    """Measure the work of a configuration's step at one crop size. Compiles two programs for eight CPU devices and runs nothing.

    The programs have the form for accelerators (`backend.PLAIN`) in float32, because CPUs convert other types to it
    and back. With `dtype` bfloat16 half of the bytes that grow with the batch are counted. Raises InputError if JAX has too few
    CPU devices.
    """
    batches = [per_device * smallest_batch(config) * config["accumulation_steps"] * DEVICES for per_device in (1, 2)]
    steps = [_Step(config, batch_size=batch, crop_size=crop_size) for batch in batches]
    movements = [step.compile() for step in steps]
    pixels = [batch // DEVICES * crop_size**2 for batch in batches]
    narrow = jnp.dtype(config["dtype"]).itemsize / 4
    per_pixel = (movements[1].memory - movements[0].memory) / (pixels[1] - pixels[0])
    memory = Line(movements[0].memory - per_pixel * pixels[0], per_pixel * narrow)
    return Work(steps[0].count_flops() / (pixels[0] * DEVICES), memory, movements[0].all_reduces, config["dtype"])


class _Step:
    """The training step of a configuration with the shapes of its arguments."""

    def __init__(self, config: Mapping[str, Any], *, batch_size: int, crop_size: int):
        config = {**config, "batch_size": batch_size, "crop_size": crop_size, "stages": (), "dtype": "float32"}
        self._training = make_training(config, num_train_steps=max(config["num_train_steps"], config["warmup_steps"]), forms=PLAIN)
        image = jax.ShapeDtypeStruct((batch_size * count_parts(config), crop_size, crop_size, 3), jnp.float32)
        state = jax.eval_shape(self._training.init, jax.random.key(0))
        self._arguments = state, {"blurred": image, "sharp": image}, frozen_shapes(config)

    def count_flops(self) -> int:
        """Count two operations for each multiply-add of the step, including gradients of gradients."""
        return 2 * count_macs(self._training.train_step, *self._arguments)

    def compile(self) -> Movement:
        mesh = _cpu_mesh()
        state, batch, frozen = self._arguments
        placed = with_sharding(state, replicated(mesh)), with_sharding(batch, over_data(mesh)), with_sharding(frozen, replicated(mesh))
        step = jax.jit(self._training.train_step, donate_argnums=0, out_shardings=replicated(mesh))
        return read_movement(step.lower(*placed).compile().as_text() or "")


def _cpu_mesh() -> Mesh:
    try:
        devices = jax.devices("cpu")
    except RuntimeError as error:
        raise InputError("This compiles for CPU devices, but JAX finds none; omit JAX_PLATFORMS, or add cpu to it.") from error
    if len(devices) < DEVICES:
        raise InputError(f"This compiles for {DEVICES} CPU devices, but JAX finds {len(devices)}; set JAX_NUM_CPU_DEVICES={DEVICES}.")
    return Mesh(np.array(devices[:DEVICES]), ("data",), axis_types=(AxisType.Auto,))
