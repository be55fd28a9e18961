"""The memory of a training step, from compiling it for the current back end without running it; and a table."""

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
# By default JAX allocates three quarters of a GPU (XLA_PYTHON_CLIENT_MEM_FRACTION). Inside that a program needs its memory in one piece,
# in addition to the prefetched batches.
MARGIN = 0.3
MARGIN_REASON = (
    f"{MARGIN:.0%} is reserved: by default JAX uses three quarters of a GPU (XLA_PYTHON_CLIENT_MEM_FRACTION), and prefetched batches"
    " and fragmentation take part of that"
)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
TABLE_BATCHES, TABLE_CROPS = (1, 2, 4, 8), (128, 256)
Say = Callable[[str], None]


def parse_size(text: str) -> int:
    """Parse a size such as 8GB, 500MB or 7.5GiB into bytes. Raises InputError for any other text."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]I?)B", text.strip().upper())
    size = round(float(match[1]) * UNITS[match[2]]) if match else 0
    if not size:
        raise InputError(f"{text!r} is not a size of memory; write it as 8GB, 500MB or 7.5GiB (--fit=8GB), or here.")
    return size


def usable(size: int) -> int:
    """Return the part of a card's memory that a training step may use."""
    return int(size * (1 - MARGIN))


def step_bytes(config: Mapping[str, Any], *, batch_size: int, crop_size: int, **changes: Any) -> int:
    """Compile the training step of a configuration with changes and return its peak bytes on one device: state, batch, temporaries.

    Compiles one program and runs nothing. Raises InputError as `make_training` does, and if the back end does not report memory.
    """
    training = _make_training(config, batch_size=batch_size, crop_size=crop_size, **changes)
    state = jax.eval_shape(training.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch_size * count_parts(config), crop_size, crop_size, 3), jnp.float32)
    step = jax.jit(training.train_step, donate_argnums=0)
    needed = peak_bytes(step.lower(state, {"blurred": images, "sharp": images}, frozen_shapes(config)).compile())
    if needed is None:
        raise InputError(f"The back end {jax.default_backend()} does not report memory needs; try another (JAX_PLATFORMS=cpu).")
    return needed


def state_bytes(config: Mapping[str, Any], *, crop_size: int) -> int:
    """Return the bytes of the training state, both networks with their optimisers: a lower bound for the step. Compiles nothing."""
    training = _make_training(config, batch_size=smallest_batch(config), crop_size=crop_size, accumulation_steps=1)
    state = jax.eval_shape(training.init, jax.random.key(0))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def _make_training(config: Mapping[str, Any], *, batch_size: int, crop_size: int, **changes: Any) -> Training:
    config = {**config, **changes, "batch_size": batch_size, "crop_size": crop_size, "stages": ()}
    return make_training(config, num_train_steps=max(config["num_train_steps"], config["warmup_steps"]))


class Line(NamedTuple):
    """Memory as a linear function of the pixels in a batch, exact within a percent. `fixed` is mostly the training state."""

    fixed: float
    per_pixel: float

    def at(self, batch_size: int | float, crop_size: int) -> float:
        """Return the bytes for a batch of crops."""
        return self.fixed + self.per_pixel * batch_size * crop_size**2

    def largest_batch(self, limit: int, crop_size: int) -> int:
        """Return the largest batch of such crops within a limit in bytes; 0 if there is none."""
        return max(0, int((limit - self.fixed) / (self.per_pixel * crop_size**2)))


def measure_line(config: Mapping[str, Any], *, crop_size: int, batches: tuple[int, int], **changes: Any) -> Line:
    """Compile a step at two batch sizes with one crop size, and return the line through both."""
    needed = [step_bytes(config, batch_size=batch, crop_size=crop_size, accumulation_steps=1, **changes) for batch in batches]
    per_pixel = (needed[1] - needed[0]) / ((batches[1] - batches[0]) * crop_size**2)
    return Line(needed[0] - per_pixel * batches[0] * crop_size**2, per_pixel)


def smallest_batch(config: Mapping[str, Any]) -> int:
    """Return 2 if batch norm in the threshold branch needs two images, else 1."""
    return 2 if config["threshold_norm"] == "batch" and config["shrinkage"] else 1


def name_device() -> str:
    """Name the back end, with a warning if it is not a common one for training."""
    device = jax.devices()[0]
    text = f"Compiled for {device.platform} ({device.device_kind}) by jax {jax.__version__}, not run; GB are 10^9 bytes."
    if device.platform == "cpu":
        text += "\nFor a GPU these figures are an estimate, because its programs differ. Run the same command there."
        text += "\nCPUs convert bfloat16 to float32 and back, so its savings do not show here."
    return text


def memory_table(config: Mapping[str, Any], *, name: str, say: Say) -> str:
    """Make a Markdown table: GB by crop, batch, dtype and remat, the smallest sufficient card, and the largest batch per card.

    Compiles 16 programs: those of the smallest and the largest batch. The others are on the line through them. `say` receives the progress.
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
    intro = f"`{name}`: GB that a training step needs, and the smallest sufficient card of {cards} GB; {MARGIN_REASON}."
    return "\n".join([intro, name_device(), "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def _cell(needed: float) -> str:
    card = next((f"{card} GB" for card in CARDS if needed <= usable(card * 10**9)), "none")
    return f"{needed / 1e9:.2f} ({card})"
