"""What this machine's processor is and can do."""

import platform
from pathlib import Path
from typing import NamedTuple


class Processor(NamedTuple):
    """Its name, and its instruction sets as Linux calls them; elsewhere none."""

    name: str
    features: tuple[str, ...]


def read_processor() -> Processor:
    """Asks the system."""
    path = Path("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line) if path.is_file() else {}
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    features = fields.get("flags", fields.get("Features", "")).split()
    return Processor(fields.get("model name") or platform.processor() or platform.machine(), tuple(features))
