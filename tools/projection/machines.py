"""Machines as described by makers and sellers. Every figure is an assumption, read in November 2026; none was measured.

- TPU v5e: Google's documentation of it: 197 TFLOP/s (bfloat16), 819 GB/s of HBM, 400 GB/s between chips over four ports in both directions
  together, 8 chips and 224 vCPUs a host, a pod of 16x16 chips. float32 products take one bfloat16 pass, JAX's default there. 1.20 USD a
  chip and hour: what third parties in 2025 and 2026 give as Google's price on demand in the United States.
- H100 SXM: NVIDIA's data sheet: 989 and 495 TFLOP/s without sparsity (bfloat16; TF32, JAX's default for float32 there), 3.35 TB/s, NVLink
  900 GB/s in both directions together. Between hosts of 8 one 400 Gb/s network card for each, 192 vCPUs a host, as AWS' p5.48xlarge has.
  3.00 USD a GPU and hour: GPU clouds asked 2 to 4 in 2026, the three large clouds more, 7 to 11.
- Latencies of one step of a ring, 1, 2 and 5 microseconds, are orders of magnitude that collective libraries reach, not data sheet values.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Device(NamedTuple):
    """One chip or card, with its share of the host."""

    name: str
    flops_per_second: Mapping[str, float]  # by dtype of computations
    bytes_per_second: float  # of its memory
    vcpus: float
    dollars_per_hour: float


class Ring(NamedTuple):
    """Devices or hosts in a ring, each with this many bytes per second to the next one; a step takes at least `latency` seconds."""

    length: int
    bytes_per_second: float
    latency: float


class Machine(NamedTuple):
    """Devices along one or more rings. A sum over all of them uses each ring in turn."""

    name: str
    device: Device
    rings: tuple[Ring, ...] = ()

    @property
    def devices(self) -> int:
        """The number of devices."""
        total = 1
        for ring in self.rings:
            total *= ring.length
        return total


V5E = Device("TPU v5e", {"bfloat16": 197e12, "float32": 197e12}, bytes_per_second=819e9, vcpus=28, dollars_per_hour=1.20)
H100 = Device("H100", {"bfloat16": 989e12, "float32": 495e12}, bytes_per_second=3.35e12, vcpus=24, dollars_per_hour=3.00)


def ici(length: int) -> Ring:
    """Return a ring of TPU v5e chips: two ports for each ring, 50 GB/s in each direction."""
    return Ring(length, bytes_per_second=100e9, latency=1e-6)


NVLINK = Ring(8, bytes_per_second=450e9, latency=2e-6)
NETWORK = Ring(8, bytes_per_second=50e9, latency=5e-6)
MACHINES = (
    Machine("v5e-1", V5E),
    Machine("v5e-8", V5E, (ici(8),)),
    Machine("v5e-256", V5E, (ici(16), ici(16))),
    Machine("1 H100", H100),
    Machine("8 H100", H100, (NVLINK,)),
    Machine("64 H100", H100, (NVLINK, NETWORK)),
)
