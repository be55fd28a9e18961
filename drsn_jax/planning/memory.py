"""Memory of a training step, found by compiling it for the back end at hand without running it, and as a table."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from drsn_jax.config.build import count_parts, frozen_shapes, make_training
from drsn_jax.ops.costs import peak_bytes
from drsn_jax.system.errors import InputError
from drsn_jax.training.functional import Training

CARDS = (4, 8, 12, 24)  # GB
# JAX takes three quarters of a GPU unless told otherwise (XLA_PYTHON_CLIENT_MEM_FRACTION), and inside of that a program needs its memory in
# one piece, beside the batches that are made ahead.
MARGIN = 0.3
MARGIN_REASON = (
    f"{MARGIN:.0%} is kept back: JAX takes three quarters of a GPU unless told otherwise (XLA_PYTHON_CLIENT_MEM_FRACTION), and batches made"
    " ahead and fragments need some of that"
)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
TABLE_BATCHES, TABLE_CROPS = (1, 2, 4, 8), (128, 256)
Say = Callable[[str], None]


def parse_size(text: str) -> int:
    """Bytes of a size such as 8GB, 500MB or 7.5GiB. Raises InputError for anything else, or nothing."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]I?)B", text.strip().upper())
    size = round(float(match[1]) * UNITS[match[2]]) if match else 0
    if not size:
        raise InputError(f"{text!r} is no size of memory; write it as 8GB, 500MB or 7.5GiB (--fit=8GB), or here.")
    return size


def usable(size: int) -> int:
    """What of a card's memory a training step may need."""
    return int(size * (1 - MARGIN))


def step_bytes(config: Mapping[str, Any], *, batch_size: int, crop_size: int, **changes: Any) -> int:
    """Peak bytes of the compiled training step of a configuration with changes: state, batch and temporaries, on one device.

    Compiles one program and runs nothing. Raises InputError for what `make_training` refuses, and where the back end does not say.
    """
    training = _make_training(config, batch_size=batch_size, crop_size=crop_size, **changes)
    state = jax.eval_shape(training.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch_size * count_parts(config), crop_size, crop_size, 3), jnp.float32)
    step = jax.jit(training.train_step, donate_argnums=0)
    needed = peak_bytes(step.lower(state, {"blurred": images, "sharp": images}, frozen_shapes(config)).compile())
    if needed is None:
        raise InputError(f"The back end {jax.default_backend()} does not say what a program needs; ask on another (JAX_PLATFORMS=cpu).")
    return needed


def state_bytes(config: Mapping[str, Any], *, crop_size: int) -> int:
    """Bytes of the training state alone, both networks with their optimisers: no step needs less. Compiles nothing."""
    training = _make_training(config, batch_size=smallest_batch(config), crop_size=crop_size, accumulation_steps=1)
    state = jax.eval_shape(training.init, jax.random.key(0))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def _make_training(config: Mapping[str, Any], *, batch_size: int, crop_size: int, **changes: Any) -> Training:
    config = {**config, **changes, "batch_size": batch_size, "crop_size": crop_size, "stages": ()}
    return make_training(config, num_train_steps=max(config["num_train_steps"], config["warmup_steps"]))


class Line(NamedTuple):
    """Memory as a line over the number of pixels in a batch, which it is within a percent: fixed is the state, nearly."""

    fixed: float
    per_pixel: float

    def at(self, batch_size: int | float, crop_size: int) -> float:
        """Bytes for a batch of crops."""
        return self.fixed + self.per_pixel * batch_size * crop_size**2

    def largest_batch(self, limit: int, crop_size: int) -> int:
        """The largest batch of such crops within a limit in bytes; 0 if there is none."""
        return max(0, int((limit - self.fixed) / (self.per_pixel * crop_size**2)))


def measure_line(config: Mapping[str, Any], *, crop_size: int, batches: tuple[int, int], **changes: Any) -> Line:
    """The line through two compiled steps, of two batch sizes at one crop size."""
    needed = [step_bytes(config, batch_size=batch, crop_size=crop_size, accumulation_steps=1, **changes) for batch in batches]
    per_pixel = (needed[1] - needed[0]) / ((batches[1] - batches[0]) * crop_size**2)
    return Line(needed[0] - per_pixel * batches[0] * crop_size**2, per_pixel)


def smallest_batch(config: Mapping[str, Any]) -> int:
    """2 where batch norm in the threshold branch needs two images, else 1."""
    return 2 if config["threshold_norm"] == "batch" and config["shrinkage"] else 1


def name_device() -> str:
    """The back end at hand, and a warning where it is not what people train on."""
    device = jax.devices()[0]
    text = f"Compiled for {device.platform} ({device.device_kind}) by jax {jax.__version__}, not run; GB are 10^9 bytes."
    if device.platform == "cpu":
        text += "\nFor a GPU these figures are an estimate: the program that is compiled for it is another. Run the same command there."
        text += "\nCPUs convert bfloat16 to float32 and back, so what it saves elsewhere does not show here."
    return text


def memory_table(config: Mapping[str, Any], *, name: str, say: Say) -> str:
    """Markdown: GB by crop, batch, dtype and remat with the smallest card that fits, and the largest batch on each. Compiles 16 programs.

    The smallest and the largest batch are compiled, all others are on the line through them. `say` is told what is going on.
    """
    columns = [{"dtype": dtype, "remat": remat} for dtype in ("float32", "bfloat16") for remat in (False, True)]
    batches = [batch * smallest_batch(config) for batch in TABLE_BATCHES]
    lines = {}
    for crop in TABLE_CROPS:
        for i, changes in enumerate(columns):
            say(f"compiling crops of {crop}, {changes}")
            lines[crop, i] = measure_line(config, crop_size=crop, batches=(batches[0], batches[-1]), **changes)
    heads = [f"{column['dtype']}{', remat' * column['remat']}" for column in columns]
    rows = [["crop", "batch", *heads], ["---"] * (2 + len(columns))]
    for crop in TABLE_CROPS:
        for batch in batches:
            cells = [_cell(lines[crop, i].at(batch, crop)) for i in range(len(columns))]
            rows.append([str(crop), str(batch), *cells])
        for card in CARDS:
            most = [lines[crop, i].largest_batch(usable(card * 10**9), crop) for i in range(len(columns))]
            rows.append([str(crop), f"most on {card} GB", *map(str, most)])
    cards = ", ".join(map(str, CARDS[:-1])) + f" and {CARDS[-1]}"
    intro = f"`{name}`: GB that a training step needs, and the smallest card of {cards} GB that it fits; {MARGIN_REASON}."
    return "\n".join([intro, name_device(), "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def _cell(needed: float) -> str:
    card = next((f"{card} GB" for card in CARDS if needed <= usable(card * 10**9)), "none")
    return f"{needed / 1e9:.2f} ({card})"
