"""The time of a step on a machine: a roofline for each device, and sums over the devices around rings. Results are ranges of assumptions.

A device computes at some share of its peak and moves bytes at some share of its bandwidth. At best both overlap; at worst layers limited
by one and by the other alternate. A sum over n devices sends every byte 2 (n - 1) / n times (reduce-scatter and all-gather around a
ring) in 2 (n - 1) steps. At best all of the sending overlaps with computing, at worst none. The latencies of the steps never overlap;
a tree would need half of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

from drsn_jax.planning.memory import Line
from projection.machines import Device, Machine, Ring
from projection.program import AllReduce


class Range(NamedTuple):
    """The range of a figure."""

    low: float
    high: float

    def times(self, factor: float) -> "Range":
        """Multiply both ends."""
        return Range(self.low * factor, self.high * factor)


# Of the peak in data sheets, for whole training steps of convolutional networks; and of the bandwidth, for fused elementwise work.
COMPUTE_SHARE = Range(0.20, 0.60)
MEMORY_SHARE = Range(0.60, 0.85)
FUSED_SHARE = Range(0.5, 1.0)  # of the bytes that the program for CPUs moves: compilers for accelerators fuse more
WAITING_SHARE = Range(0.5, 1.0)


class Work(NamedTuple):
    """The work of a training step on a device, by the pixels of its part of the batch."""

    flops_per_pixel: float
    memory: Line  # bytes read and written
    all_reduces: tuple[AllReduce, ...]
    dtype: str


class Load(NamedTuple):
    """The part of a batch on one device."""

    batch_size: float  # a fraction of an image cannot be run, but serves as a reference
    crop_size: int


def compute_seconds(work: Work, device: Device, load: Load) -> Range:
    """Return the time of a step on one device alone."""
    flops = work.flops_per_pixel * load.batch_size * load.crop_size**2 / device.flops_per_second[work.dtype]
    memory = work.memory.at(load.batch_size, load.crop_size) / device.bytes_per_second
    fast = max(flops / COMPUTE_SHARE.high, memory * FUSED_SHARE.low / MEMORY_SHARE.high)
    return Range(fast, flops / COMPUTE_SHARE.low + memory * FUSED_SHARE.high / MEMORY_SHARE.low)


class Exchange(NamedTuple):
    """Seconds of a step's sums over the devices: sending, which may overlap with computing, and latencies, which may not."""

    sending: float
    waiting: Range


def exchange_seconds(all_reduces: Sequence[AllReduce], rings: Sequence[Ring]) -> Exchange:
    """Return the time of the sums: around the first ring, then with the remaining share around the next; nothing without rings."""
    sending, waiting, holders = 0.0, 0.0, 1
    total, times = sum(each.bytes * each.times for each in all_reduces), sum(each.times for each in all_reduces)
    for ring in rings:
        sending += 2 * (ring.length - 1) / ring.length * total / holders / ring.bytes_per_second
        waiting += 2 * (ring.length - 1) * ring.latency * times
        holders *= ring.length
    return Exchange(sending, WAITING_SHARE.times(waiting))


def step_seconds(work: Work, machine: Machine, load: Load) -> Range:
    """Return the time of a step with this load on every device."""
    compute, exchange = compute_seconds(work, machine.device, load), exchange_seconds(work.all_reduces, machine.rings)
    return Range(max(compute.low, exchange.sending) + exchange.waiting.low, compute.high + exchange.sending + exchange.waiting.high)


def efficiency(work: Work, machine: Machine, load: Load, *, alone: Load | None = None) -> Range:
    """Return images per second on n devices, relative to n times one device with the load `alone`.

    Without `alone` the load per device stays the same (weak scaling); with the whole batch as `alone` it is split (strong scaling).
    The low end computes fast and overlaps no sending; the high end computes slowly and overlaps as much as possible.
    """
    alone = load if alone is None else alone
    first, each = (compute_seconds(work, machine.device, part) for part in (alone, load))
    exchange = exchange_seconds(work.all_reduces, machine.rings)
    share = load.batch_size * load.crop_size**2 / (alone.batch_size * alone.crop_size**2)
    low = first.low / (each.low + exchange.sending + exchange.waiting.high)
    high = first.high / (max(each.high, exchange.sending) + exchange.waiting.low)
    return Range(*sorted((low * share, high * share)))


def batch_for(work: Work, machine: Machine, crop_size: int, *, wanted: float = 0.9, most: int = 4096) -> int | None:
    """Return the smallest power of two of images per device with at least that efficiency at its low end; None if above `most`."""
    batches = (2**i for i in range(most.bit_length()))
    return next((batch for batch in batches if efficiency(work, machine, Load(batch, crop_size)).low >= wanted), None)
