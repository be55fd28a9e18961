"""A table of a configuration's training time on the machines of `projection.machines`, and of the data that it must read."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from drsn_jax.config.build import count_parts, make_parts, make_stages
from drsn_jax.planning.memory import Say
from drsn_jax.run.loop import count_steps
from drsn_jax.training.schedule import Stage, stage_spans
from projection.machines import MACHINES, Machine
from projection.model import COMPUTE_SHARE, FUSED_SHARE, MEMORY_SHARE, Load, Range, Work, batch_for, efficiency, step_seconds
from projection.work import measure_work

PAIRS = 2103  # GoPro's pairs, for `num_epochs`
# tf.data on one vCPU, 1280x720 PNG pairs, crops of 256: half of the rate of two cores (docs/reference/speed.md).
PAIRS_PER_VCPU = {"decoded": 30.0, "cached": 265.0}
WANTED = 0.9


class Row(NamedTuple):
    """A training on a machine, with `times` the batch of the recipe and proportionally fewer steps."""

    machine: Machine
    times: int
    step: Range  # seconds, of the last stage
    efficiency: Range
    hours: Range
    pairs_per_second: Range

    @property
    def dollars(self) -> Range:
        """The cost at the price of its devices."""
        return self.hours.times(self.machine.devices * self.machine.device.dollars_per_hour)


def describe_projection(config: Mapping[str, Any], *, name: str, say: Say) -> str:
    """Return Markdown for a configuration called `name`. Compiles two programs. `say` receives the progress.

    Raises InputError for a configuration that cannot be trained.
    """
    stages, steps = make_stages(config), count_steps(config, PAIRS)
    make_parts(config, num_train_steps=steps)
    crop = max(stage.crop_size for stage in stages)
    say("compiling the training step for eight devices, with two batch sizes")
    work = measure_work(config, crop_size=crop)
    options = {"steps": steps, "parts": count_parts(config), "micro_batches": config["accumulation_steps"]}
    rows = [row for machine in MACHINES for row in make_rows(work, machine, stages, **options)]
    batches = " then ".join(f"batch {stage.batch_size} of {stage.crop_size}x{stage.crop_size}" for stage in stages)
    text = [
        f"`{name}`, {config['dtype']}, {steps:,} steps, {batches}. {_describe_work(work, crop)}",
        "",
        "| machine | batch | step, ms | efficiency | hours | USD | pairs/s (GB/s) | vCPUs to decode / from cache, of |",
        "|---|---|---|---|---|---|---|---|",
        *(_format(row, stages) for row in rows),
        "",
        _describe_batches(work, crop),
        f"Assumed: {_percent(COMPUTE_SHARE)} of the peak, {_percent(MEMORY_SHARE)} of the memory's bandwidth, {_percent(FUSED_SHARE)} of"
        " these bytes, as counted in the program for CPUs, and the machines of drsn_jax/projection/machines.py. Nothing was run.",
    ]
    return "\n".join([*text, ""])


def _describe_work(work: Work, crop: int) -> str:
    flops, each, fixed = work.flops_per_pixel * crop**2 / 1e9, work.memory.per_pixel * crop**2 / 1e9, work.memory.fixed / 1e9
    sums, megabytes = (
        sum(count) for count in zip(*((each.times, each.bytes * each.times / 1e6) for each in work.all_reduces), strict=True)
    )
    return (
        f"An image of {crop}x{crop} takes {_round(flops)} GFLOP and moves {_round(each)} GB of memory, a step {_round(fixed)} GB more;"
        f" {sums} sums over the devices, of {_round(megabytes)} MB."
    )


def make_rows(
    work: Work, machine: Machine, stages: Sequence[Stage], *, steps: int, parts: int = 1, micro_batches: int = 1
) -> Iterator[Row]:
    """Make the rows: the unchanged recipe if its batches divide over the devices, and its batch on every device for as many images."""
    devices, last = machine.devices, stages[-1]
    batches = math.gcd(*(stage.batch_size for stage in stages))
    for times in [1] * (batches % (devices * micro_batches) == 0) + [devices] * (devices > 1):
        loads = {stage: Load(stage.batch_size * times / devices, stage.crop_size) for stage in stages}
        seconds = {stage: step_seconds(work, machine, load) for stage, load in loads.items()}
        spans = [(stage, (end - first) / times) for stage, first, end in stage_spans(stages, start_step=0, num_train_steps=steps)]
        hours = Range(*(sum(count * seconds[stage][end] for stage, count in spans) / 3600 for end in (0, 1)))
        alone = Load(last.batch_size, last.crop_size) if times == 1 else loads[last]
        share = efficiency(work, machine, loads[last], alone=alone)
        rate = [last.batch_size * times * parts / seconds[last][end] for end in (1, 0)]
        yield Row(machine, times, seconds[last], share, hours, Range(*rate))


def _format(row: Row, stages: Sequence[Stage]) -> str:
    batch = ", ".join(f"{stage.batch_size * row.times:,}" for stage in stages)
    vcpus = " / ".join(_between(row.pairs_per_second.times(1 / rate)) for rate in PAIRS_PER_VCPU.values())
    cells = [row.machine.name, batch, _between(row.step.times(1e3)), _between(row.efficiency.times(100.0)) + " %"]
    sent = row.pairs_per_second.times(2 * stages[-1].crop_size ** 2 * 3 * 4 / 1e9)  # crops of both images, in float32
    cells += [_between(row.hours), _between(row.dollars), f"{_between(row.pairs_per_second)} ({_between(sent)})"]
    return f"| {' | '.join(cells)} | {vcpus}, of {row.machine.device.vcpus * row.machine.devices:,.0f} |"


def _between(values: Range) -> str:
    low, high = (_round(value) for value in values)
    return low if low == high else f"{low}-{high}"


def _round(value: float) -> str:
    """Round to two digits; more would not be meaningful."""
    digits = 1 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def _describe_batches(work: Work, crop: int) -> str:
    found = {machine.name: batch_for(work, machine, crop, wanted=WANTED) for machine in MACHINES if machine.devices > 1}
    batches = ", ".join(f"{name} {'none' if batch is None else batch}" for name, batch in found.items())
    return f"Images of {crop}x{crop} a device for at least {WANTED:.0%} of its speed alone, even if nothing is hidden: {batches}."


def _percent(share: Range) -> str:
    return f"{share.low:.0%} to {share.high:.0%}"
