"""The traffic of a compiled program, through memory and between devices, read from its text.

XLA's own `cost_analysis` counts the body of a loop only once, and does not report exchanges between devices.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)(.*)")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_BITS = re.compile(r"\d+$")
# These only name or group existing memory.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id")
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class AllReduce(NamedTuple):
    """One sum over the devices: the bytes per device, and the number of executions per run of the program."""

    bytes: int
    times: int


class Movement(NamedTuple):
    """The traffic of one run of a program on each device."""

    memory: int  # bytes that its fused operations read and write, without regard to caches
    all_reduces: tuple[AllReduce, ...]

    @property
    def reduced(self) -> int:
        """The bytes of all sums over the devices."""
        return sum(each.bytes * each.times for each in self.all_reduces)


class _Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str


def read_movement(text: str) -> Movement:
    """Read the traffic of a program from `compiled.as_text()` (HLO after optimisation). Loops count as often as they run.

    Raises ValueError for a loop of unknown length, and for an exchange between devices other than a sum, which this package does not have.
    """
    entry, computations = _parse(text)
    memory, all_reduces = 0, []
    for instruction, size, times in _run(entry, computations, times=1):
        opcode = instruction.opcode.removesuffix("-start")
        if opcode == "all-reduce":
            all_reduces.append(AllReduce(_bytes(instruction.shape), times))
        elif opcode in _COLLECTIVES:
            raise ValueError(f"The program has an {opcode} ({instruction.name}): only sums over the devices are counted.")
        memory += size * times
    return Movement(memory, tuple(all_reduces))


def _parse(text: str) -> tuple[str, dict[str, list[_Instruction]]]:
    entry, computations, current = "", {}, []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            current.append(_Instruction(*instruction.groups()))
    return entry, computations


def _run(name: str, computations: dict[str, list[_Instruction]], *, times: int) -> Iterator[tuple[_Instruction, int, int]]:
    """Yield every instruction that moves data, with the bytes that it reads and writes and its number of executions."""
    sizes = {instruction.name: _bytes(instruction.shape) for instruction in computations[name]}
    for instruction in computations[name]:
        if instruction.opcode in ("while", "call", "conditional"):
            for called, runs in _called(instruction):
                yield from _run(called, computations, times=times * runs)
        elif instruction.opcode not in _FREE:
            read = sum(sizes[operand] for operand in re.findall(r"%([\w.\-]+)", instruction.operands))
            yield instruction, read + sizes[instruction.name], times


def _called(instruction: _Instruction) -> list[tuple[str, int]]:
    """Return the computations of a loop, call or branch with their numbers of executions; all branches count as taken."""
    if instruction.opcode == "while":
        trips = _TRIPS.search(instruction.attributes)
        if not trips:
            raise ValueError(f"The loop {instruction.name} has no known length, so its traffic cannot be counted.")
        return [(_names(instruction, "body")[0], int(trips[1]))]
    keys = ("to_apply", "branch_computations", "true_computation", "false_computation")
    return [(name, 1) for key in keys for name in _names(instruction, key)]


def _names(instruction: _Instruction, key: str) -> list[str]:
    found = re.search(rf"{key}=(%[\w.\-]+|\{{[^}}]*\}})", instruction.attributes)
    return re.findall(r"%([\w.\-]+)", found[1]) if found else []


def _bytes(shape: str) -> int:
    """Return the bytes of an array such as f32[4,4,3,8]{3,2,1,0}, or of all arrays of a tuple."""
    total = 0
    for kind, lengths in _ARRAY.findall(shape):
        bits = _BITS.search(kind)
        total += max(int(bits[0]) if bits else 8, 8) // 8 * math.prod(int(length) for length in lengths.split(",") if length)
    return total
