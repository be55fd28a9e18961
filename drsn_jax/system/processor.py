"""The processor of this machine, as reported by Linux."""

import platform
from pathlib import Path
from typing import NamedTuple

_CPUINFO = Path("/proc/cpuinfo")


class Processor(NamedTuple):
    """The processor's model name, and its instruction sets if Linux lists them (empty otherwise)."""

    name: str
    flags: frozenset[str]

    @property
    def has_bfloat16(self) -> bool:
        """Whether the processor has units for bfloat16 products: AVX-512 BF16 or AMX."""
        return not self.flags.isdisjoint({"avx512_bf16", "amx_bf16"})


def read_processor() -> Processor:
    """Read name and instruction sets of this machine's processor."""
    text = _CPUINFO.read_text() if _CPUINFO.is_file() else ""
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return Processor(name, frozenset(fields.get("flags", fields.get("Features", "")).split()))
