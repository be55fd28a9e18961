"""One row of the bench: workers prepared one by one, timed in turn (A B C A B C), and summarised."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from drsn_jax.benchmark.processes import SkippedError, Worker, WorkerError
from drsn_jax.benchmark.rows import OURS, Row, family_of, precision_of

LEAST, MOST = 3, 15  # samples of a subject
SLOW, LEAST_SLOW = 3.0, 2  # of a subject that takes SLOW times as long as the fastest and has used up its share of the seconds
Cell = dict[str, Any]
Samples = dict[str, list[dict[str, Any]]]


def measure_row(
    row: Row,
    subjects: Sequence[str],
    *,
    configs: Mapping[str, Any],
    folder: str,
    seconds: float,
    interleave: bool,
    start_fn: Callable[[str], Worker],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Time every subject of a row. The cell of a subject that fails states the reason, and the others go on.

    `configs` is keyed by subject, and `folder` holds the pairs of the input pipeline. `seconds` is the budget of the row's samples.
    `start_fn` starts the worker of a subject, and `say` reports progress. Without `interleave`, and in rows that need the whole memory of
    the device, each subject finishes before the next one starts.
    """
    groups = [list(subjects)] if interleave and not row.alone else [[subject] for subject in subjects]
    cells: dict[str, Cell] = {subject: {"subject": subject} for subject in subjects}
    samples: Samples = {}
    for group in groups:
        with ExitStack() as stack:
            workers = _start(group, cells, stack, start_fn=start_fn)
            for subject in list(workers):
                say(f"{subject}: first calls")
                arguments = {"row": row.name, "config": configs[subject], "folder": folder}
                if made := _attempt(subject, workers, cells, lambda worker, arguments=arguments: worker.ask("prepare", **arguments)):
                    say(f"{subject}: first call {made['first_call']:.3g} s, then {made['warm_call']:.3g} s")
            samples |= time_rounds(workers, cells, seconds=seconds * len(group) / len(subjects), say=say)
    return summarise_row(row, cells, samples) | {"interleaved": len(groups) == 1}


def time_rounds(workers: dict[str, Worker], cells: dict[str, Cell], *, seconds: float, say: Callable[[str], None]) -> Samples:
    """Time every worker once per round, in turn. So only one runs at a time, and a drift of the machine affects all alike.

    Each has at least LEAST samples, or LEAST_SLOW if it is much slower than another. It has more while its share of `seconds` lasts, and at
    most MOST. A worker that fails is removed from `workers`, and its cell states the reason.
    """
    share, samples = seconds / max(len(workers), 1), {subject: [] for subject in workers}
    fastest = min((cells[subject]["warm_call"] for subject in workers), default=0.0)

    def goes_on(subject: str) -> bool:
        cell, count = cells[subject], len(samples[subject])
        spent = sum(sample["seconds"] * cell["calls"] for sample in samples[subject])
        least = LEAST_SLOW if cell["warm_call"] > max(SLOW * fastest, share) else LEAST
        return subject in workers and (count < least or (spent < share and count < MOST))

    rounds = 0
    while going := [subject for subject in samples if goes_on(subject)]:
        rounds += 1
        say(f"round {rounds}: {', '.join(going)}")
        for subject in going:
            if sample := _attempt(subject, workers, cells, lambda worker: worker.ask("time"), keep=False):
                samples[subject].append(sample)
    return samples


def summarise_row(row: Row, cells: Mapping[str, Cell], samples: Samples) -> dict[str, Any]:
    """Build the JSON of a row: the statistics of every cell, the shares of the device's peak, and the ratio.

    Seconds are for one call, or for one image if the row has a unit. `ratios` has for each precision the fastest Keras median divided by
    ours: above 1 ours is faster. Only results from the same kind of device as ours count.
    """
    peaks = {subject: statistics.median(found) for subject in samples if (found := _ceilings(samples[subject]))}
    ours = cells.get(OURS, {})
    platform, macs = ours.get("platform"), ours.get("macs")
    done = {subject: cell for subject, cell in cells.items() if "error" not in cell and samples.get(subject)}
    for subject, cell in done.items():
        _summarise(cell, [sample["seconds"] for sample in samples[subject]], divide=cell["images"] if row.unit else 1)
        cell["compile_seconds"] = None if row.host else max(cell["first_call"] - cell["images"] / cell["images_per_second"], 0.0)
        peak = peaks.get(f"ours-{precision_of(subject)}")
        if macs and peak and cell["platform"] == platform:
            cell["macs"] = round(macs * cell["images"] / ours["images"])
            cell["share_of_peak"] = 2 * cell["macs"] * cell["images_per_second"] / cell["images"] / peak
    comparable = {subject: cell["median"] for subject, cell in done.items() if row.host or cell["platform"] == platform}
    return {"peak_flops_per_second": peaks, "cells": list(cells.values()), "ratios": _find_ratios(comparable)}


def _find_ratios(medians: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Compute the ratio for each precision that was measured on both sides."""
    ratios = {}
    for precision in ("float32", "bfloat16"):
        keras = [subject for subject in medians if family_of(subject) != "ours" and precision_of(subject) == precision]
        if keras and (ours := medians.get(f"ours-{precision}")):
            fastest = min(keras, key=medians.__getitem__)
            ratios[precision] = {"ratio": medians[fastest] / ours, "fastest_keras": fastest}
    return ratios


def _summarise(cell: Cell, seconds: Sequence[float], *, divide: int) -> None:
    per_call = statistics.median(seconds)
    cell |= {"seconds": [value / divide for value in seconds], "median": per_call / divide, "n": len(seconds)}
    cell |= {"spread": [min(seconds) / divide, max(seconds) / divide], "images_per_second": cell["images"] / per_call}


def _ceilings(samples: Sequence[Mapping[str, Any]]) -> list[float]:
    return [sample["ceiling"] for sample in samples if sample.get("ceiling")]


def _start(group: Sequence[str], cells: dict[str, Cell], stack: ExitStack, *, start_fn: Callable[[str], Worker]) -> dict[str, Worker]:
    """Start a whole group at once: imports run in parallel, and nothing is timed meanwhile."""
    workers = {}
    for subject in group:
        workers[subject] = stack.enter_context(start_fn(subject))
        workers[subject].send("hello", subject=subject)
    for subject in group:
        _attempt(subject, workers, cells, lambda worker: worker.receive())
    return workers


def _attempt(
    subject: str, workers: dict[str, Worker], cells: dict[str, Cell], ask: Callable[[Worker], Any], *, keep: bool = True
) -> dict[str, Any] | None:
    """Return the worker's answer, stored in its cell if `keep`. On failure store the reason and end the worker."""
    if subject not in workers:
        return None
    try:
        answer = ask(workers[subject])
    except WorkerError as error:
        cells[subject]["skipped" if isinstance(error, SkippedError) else "error"] = str(error)
        workers.pop(subject).close()
        return None
    if keep:
        cells[subject] |= answer
    return answer
