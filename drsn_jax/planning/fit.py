"""A configuration that fits a card: batch, crop, rematerialisation and micro-batches, proposed and then compiled (`info --fit`)."""

import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from drsn_jax.config.build import count_parts, make_generator, make_stages
from drsn_jax.ops.backend import forms_here
from drsn_jax.planning.memory import MARGIN_REASON, Line, Say, measure_line, name_device, smallest_batch, state_bytes, step_bytes, usable
from drsn_jax.system.errors import InputError
from drsn_jax.training.schedule import Stage

MOST_CHECKS = 3  # proposals to compile before giving up
SMALLEST_CROP = 32


class Proposal(NamedTuple):
    """Stages that fit with these two switches, and the bytes that the largest stage needs."""

    stages: tuple[Stage, ...]
    remat: bool
    accumulation_steps: int
    needed: int

    def changes(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Return the changed keys of the configuration, as on the command line."""
        if len(self.stages) == 1:
            sizes = {"batch_size": str(self.stages[0].batch_size), "crop_size": str(self.stages[0].crop_size)}
            sizes |= {"stages": "()"} if config["stages"] else {}
        else:
            sizes = {"stages": json.dumps(self.stages, separators=(",", ":")).replace("[", "(").replace("]", ")")}
        return sizes | {"remat": str(self.remat), "accumulation_steps": str(self.accumulation_steps)}


def describe_fit(config: Mapping[str, Any], *, name: str, overrides: Sequence[str] = (), size: int, say: Say) -> str:
    """Describe how a configuration fits a card of `size` bytes: a table of candidates, and command lines, each compiled as a check.

    `name` and `overrides` (--config.key=value) are the source of the configuration and are repeated in the command lines. Compiles four
    programs for the table and one to six more. `say` receives the progress. Raises InputError if nothing fits.
    """
    smallest, limit = smallest_batch(config), usable(size)
    if (least := state_bytes(config, crop_size=SMALLEST_CROP)) > limit:
        raise _nothing_fits(name, size, f"parameters and optimisers alone take {least / 1e9:.3g} GB")
    stages = tuple(stage._replace(batch_size=max(stage.batch_size, smallest)) for stage in make_stages(config))
    crops = sorted({stage.crop_size for stage in stages})
    lines = measure_lines(config, stages, say=say)
    recipe = keep_recipe(config, stages, lines, limit=limit, say=say)
    best = recipe or shrink_crop(config, stages, lines, limit=limit, say=say)
    if best is None:
        least = min(line.at(smallest, SMALLEST_CROP) for line in lines.values())
        raise _nothing_fits(name, size, f"crops of {SMALLEST_CROP} need about {least / 1e9:.3g} GB")
    text = [f"{name} on a card of {size / 1e9:g} GB: {limit / 1e9:.2f} GB usable; {MARGIN_REASON}.", name_device(), ""]
    text += _tabulate(lines, crops=crops, smallest=smallest, limit=limit)
    same = "the recipe's batch and crop" if stages == make_stages(config) else "the smallest batch that trains"
    kept = same if recipe else "smaller crops than the recipe's"

    def command(proposal: Proposal) -> str:
        return command_line(config, proposal.changes(config), name=name, overrides=overrides)

    part = "" if len(best.stages) == 1 else "; the stage with the most pixels"
    text += ["", f"Proposal, {kept}{part}; {best.needed / 1e9:.2f} GB, compiled:", command(best)]
    if best.accumulation_steps > 1 and "batch" in (config["norm"], config["critic_norm"], config["threshold_norm"]):
        text.append("Batch norm uses the statistics of each micro-batch, so the result differs slightly from that of the large batch.")
    if len(best.stages) == 1 and best.accumulation_steps == 1:
        largest = fill_card(config, best, lines, limit=limit, say=say)
        if largest and largest.stages[0].batch_size > best.stages[0].batch_size:
            how = "with" if best.remat else "without"
            text += [f"The largest batch of such crops {how} remat; {largest.needed / 1e9:.2f} GB, compiled:", command(largest)]
    return "\n".join([*text, ""])


def _nothing_fits(name: str, size: int, why: str) -> InputError:
    return InputError(
        f"{name} does not fit {size / 1e9:g} GB, of which {usable(size) / 1e9:.3g} GB are usable: {why};"
        " use a smaller network (--config.widths=32,64,128) or a larger card."
    )


def _tabulate(lines: dict[bool, Line], *, crops: Sequence[int], smallest: int, limit: int) -> Iterator[str]:
    yield f"{'crop':>5}{'remat':>8}{f'batch {smallest}, GB':>16}{'each image, GB':>16}{'largest batch':>15}"
    for crop in crops:
        for remat, line in lines.items():
            each = line.per_pixel * crop**2 / 1e9
            batch = line.largest_batch(limit, crop)
            yield f"{crop:5}{remat!s:>8}{line.at(smallest, crop) / 1e9:16.2f}{each:16.3f}{batch:15}"


def measure_lines(config: Mapping[str, Any], stages: Sequence[Stage], *, say: Say) -> dict[bool, Line]:
    """Measure memory at the largest crop of the stages, without (False) and with rematerialisation. Compiles four programs."""
    crop_size, smallest = max(stage.crop_size for stage in stages), smallest_batch(config)
    lines = {}
    for remat in (False, True):
        say(f"compiling batches of {smallest} and {4 * smallest}, remat={remat}")
        lines[remat] = measure_line(config, crop_size=crop_size, batches=(smallest, 4 * smallest), remat=remat)
    return lines


def command_line(config: Mapping[str, Any], changes: Mapping[str, str], *, name: str, overrides: Sequence[str]) -> str:
    """Return the `drsn-jax train` command for a configuration. `changes` replace the `overrides` of the same keys."""
    kept = [override for override in overrides if override.removeprefix("--config.").split("=")[0] not in changes]
    words = ["drsn-jax", "train", f"--config={name}", "--workdir=WORKDIR"]
    words += ["--config.train_dir=DIR"] if config["data"] != "demo" and not config["train_dir"] else []
    return "  " + shlex.join([*words, *kept, *(f"--config.{key}={value}" for key, value in changes.items())])


def keep_recipe(config: Mapping[str, Any], stages: tuple[Stage, ...], lines: dict[bool, Line], *, limit: int, say: Say) -> Proposal | None:
    """Propose the unchanged stages, with as few micro-batches as possible. Remat is tried before splitting the batch."""
    checks = 0
    for steps in _divisors(math.gcd(*(stage.batch_size for stage in stages))):
        if min(stage.batch_size for stage in stages) // steps < smallest_batch(config):
            break
        for remat, line in lines.items():
            largest = max(stages, key=lambda stage: stage.batch_size * stage.crop_size**2)
            if line.at(largest.batch_size // steps, largest.crop_size) <= limit and checks < MOST_CHECKS:
                checks += 1
                needed = check(config, largest, remat=remat, accumulation_steps=steps, say=say)
                if needed <= limit:
                    return Proposal(stages, remat, steps, needed)
    return None


def shrink_crop(config: Mapping[str, Any], stages: tuple[Stage, ...], lines: dict[bool, Line], *, limit: int, say: Say) -> Proposal | None:
    """Propose one stage: the largest crop, halved until it fits with remat, and the largest batch up to the recipe's."""
    stride = make_generator(config).stride
    crop, batch = max(stage.crop_size for stage in stages), max(stage.batch_size for stage in stages)
    checks = 0
    while crop // 2 >= SMALLEST_CROP and checks < MOST_CHECKS:
        crop = crop // 2 // stride * stride
        fitting = min(batch, lines[True].largest_batch(limit, crop))
        if fitting >= smallest_batch(config):
            checks += 1
            needed = check(config, Stage(0, crop, fitting), remat=True, accumulation_steps=1, say=say)
            if needed <= limit:
                return Proposal((Stage(0, crop, fitting),), True, 1, needed)
    return None


def fill_card(config: Mapping[str, Any], found: Proposal, lines: dict[bool, Line], *, limit: int, say: Say) -> Proposal | None:
    """Propose the same crop with the largest batch that fits without splitting, with remat if the proposal has it."""
    crop = found.stages[0].crop_size
    batch = lines[found.remat].largest_batch(limit, crop)
    for _ in range(MOST_CHECKS):
        if batch <= found.stages[0].batch_size:
            return None
        stage = Stage(0, crop, batch)
        needed = check(config, stage, remat=found.remat, accumulation_steps=1, say=say)
        if needed <= limit:
            return Proposal((stage,), found.remat, 1, needed)
        batch = int(batch * 0.97 * limit / needed)
    return None


def check(config: Mapping[str, Any], stage: Stage, *, remat: bool, accumulation_steps: int, say: Say) -> int:
    """Return the bytes that a stage needs, by compiling it."""
    say(f"compiling the proposal: batch {stage.batch_size}, crops of {stage.crop_size}, remat={remat}, {accumulation_steps} micro-batches")
    batch, extra, steps = stage.batch_size, 0, accumulation_steps
    if steps > 2 and forms_here().unroll_loops:
        # Many unrolled micro-batches take minutes to compile. Two use as much memory as many, except for the images: blurred, sharp and
        # restored.
        batch, steps = 2 * stage.batch_size // steps, 2
        extra = (stage.batch_size - batch) * (2 * count_parts(config) + 1) * stage.crop_size**2 * 3 * 4
    try:
        return extra + step_bytes(config, batch_size=batch, crop_size=stage.crop_size, remat=remat, accumulation_steps=steps)
    except (RuntimeError, ValueError) as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return sys.maxsize


def _divisors(number: int) -> Iterator[int]:
    return (i for i in range(1, number + 1) if number % i == 0)
