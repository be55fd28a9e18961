"""Reading safetensors: eight bytes of length, a JSON header of that length, then the numbers. No package is needed for that."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bf16", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
KINDS |= {"BOOL": "?"}
LONGEST_HEADER = 100_000_000  # bytes: the format's own limit


def read_safetensors(path: Path, *, keep: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The tensors whose names `keep` admits; bfloat16 becomes float32. Raises ValueError, or what json raises, for a damaged file."""
    tensors = {}
    with path.open("rb") as file:
        length, total = int.from_bytes(file.read(8), "little"), path.stat().st_size
        if length > min(LONGEST_HEADER, total - 8):
            raise ValueError(f"its header would be {length} bytes long, the file is {total}")
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__" or not keep(name):
                continue
            begin, end = entry["data_offsets"]
            kind, shape = KINDS[entry["dtype"]], tuple(entry["shape"])
            if not 0 <= begin <= end <= total - 8 - length or min(shape, default=0) < 0 or end - begin != math.prod(shape) * itemsize(kind):
                raise ValueError(f"{name[:60]!r} does not lie in the file as its header says")
            file.seek(8 + length + begin)
            tensors[name] = decode(file.read(end - begin), kind).reshape(shape)
    return tensors


def itemsize(kind: str) -> int:
    """Bytes of one number of a kind: a numpy type string, or bf16."""
    return 2 if kind == "bf16" else np.dtype(kind).itemsize


def decode(raw: bytes, kind: str) -> np.ndarray:
    """Numbers from bytes; bfloat16, the upper half of a float32, as float32. [n]"""
    if kind == "bf16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, kind)
