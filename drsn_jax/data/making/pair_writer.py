"""Pairs made by a command and written to disk. Interrupted runs can be resumed, with the same bytes as an uninterrupted one.

The folder contains `settings.json` (the requested settings) and `pairs.jsonl` (the plan: one line per pair, written before the first
image). A pair is complete if both images exist. Each is written under a temporary name and renamed, the sharp one last.
"""

import contextlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.system.locks import lock_folder
from drsn_jax.system.progress import Progress, draw_bar

SETTINGS, PAIRS = "settings.json", "pairs.jsonl"
Line = dict[str, Any]  # of pairs.jsonl; `blurred` and `sharp` are the images' paths below the folder
Example = tuple[Line, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]  # line, blurred, sharp


class Made(NamedTuple):
    """The number of pairs in the folder, and the number made by this run."""

    total: int
    new: int


def make_pairs(
    *,
    output: Path,
    settings: Mapping[str, Any],
    plan_fn: Callable[[Progress], Sequence[Line]],
    examples_fn: Callable[[Sequence[Line]], Iterable[Example]],
    extend: bool = False,
    overwrite: bool = False,
    workers: int = 4,
) -> Made:
    """Make the pairs of `plan_fn` and write them as PNG below `output`; existing pairs are kept.

    `settings` (JSON values) must determine every byte: a folder made with other settings is refused. `plan_fn` runs once per folder, or
    each time with `extend`: then the plan may change, except for existing pairs. `examples_fn` yields the examples, uint8 0..255, for given
    lines. `workers` threads encode. Raises `InputError` for a folder with other content, in use by another process, or with pairs of other
    settings. It names these settings; with `overwrite` the pairs are removed instead. The errors of both functions pass; those of `plan_fn`
    are raised before anything is written or removed.
    """
    settings, progress = json.loads(json.dumps(dict(settings))), Progress()
    with lock_folder(output, doing="making pairs"), contextlib.closing(progress):
        overwrite = overwrite or _is_void(output, settings)
        plan = None if overwrite else _resume(output, settings)
        if plan is not None and extend:
            plan = _extended(output, plan, list(plan_fn(progress)))
        if plan is None:
            check_empty(output, settings, overwrite=overwrite)
            plan = list(plan_fn(progress))
            _remove_pairs(output)
            write_atomically(output / SETTINGS, f"{json.dumps(settings, indent=1)}\n".encode())
            _write_plan(output, plan)
        missing = [line for line in plan if not all((output / line[side]).exists() for side in ("blurred", "sharp"))]
        if missing:
            _write_all(
                examples_fn(missing),
                output,
                workers,
                lambda done: progress(f"{draw_bar(len(plan) - len(missing) + done, len(plan))} pairs"),
            )
        for left in output.rglob(".drsn-*"):  # left by a run that was killed while writing
            left.unlink(missing_ok=True)
    return Made(len(plan), len(missing))


def check_apart(output: Path, sources: Sequence[Path]) -> None:
    """Raise `InputError` if the pairs would be written into a source, or beside its files."""
    for source in sources:
        if _real(source) in (_real(output), *_real(output).parents):
            raise InputError(f"--output={output} lies inside --source={source}; give a folder outside it")


def check_empty(output: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raise `InputError` if a new set of pairs may not start in `output`: a file, other settings, or other content."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; give a folder for the pairs (--output=DIR)")
    there = [] if not output.exists() else [path.name for path in output.iterdir() if not path.name.startswith(".")]
    if there and SETTINGS not in there:
        raise InputError(f"{output} contains other files ({', '.join(sorted(there)[:3])}); give a new or empty folder (--output=DIR)")
    if there and not overwrite:
        refuse_other_settings(str(output), _read_json(output / SETTINGS), settings)


def refuse_other_settings(where: str, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise `InputError` naming the settings that differ between existing and requested pairs."""
    differing = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
    if differing:
        had, has = (", ".join(f"{key}={json.dumps(one.get(key))}" for key in differing) for one in (stored, settings))
        raise InputError(
            f"{where} contains pairs made with {had}, now requested is {has}; give another folder, the same settings, or --overwrite"
        )


def _is_void(output: Path, settings: Mapping[str, Any]) -> bool:
    """Check for a plan of other settings without any image: removing it loses nothing."""
    if not (output / PAIRS).is_file() or not (output / SETTINGS).is_file() or _read_json(output / SETTINGS) == settings:
        return False
    return not any(_has_image(output, line) for line in _read_plan(output))


def _has_image(output: Path, line: Line) -> bool:
    return any((output / line[side]).exists() for side in ("blurred", "sharp"))


def _resume(output: Path, settings: Mapping[str, Any]) -> list[Line] | None:
    """Return the folder's plan, made with the same settings; None if there is none yet."""
    if not (output / PAIRS).is_file() or not (output / SETTINGS).is_file():
        return None
    refuse_other_settings(str(output), _read_json(output / SETTINGS), settings)
    return _read_plan(output)


def _extended(output: Path, stored: list[Line], plan: list[Line]) -> list[Line]:
    """Write the new plan, unless an existing pair is missing from it."""
    named = {line["name"]: line for line in plan}
    gone = [line for line in stored if named.get(line["name"]) != line and _has_image(output, line)]
    if gone:
        raise InputError(
            f"The source of {len(gone)} pairs in {output} is missing or has changed (the first is {gone[0]['name']}). "
            "Restore it, give another folder, or --overwrite."
        )
    if plan != stored:
        _write_plan(output, plan)
    return plan


def _write_plan(output: Path, plan: Sequence[Line]) -> None:
    write_atomically(output / PAIRS, "".join(f"{json.dumps(line)}\n" for line in plan).encode())


def _read_plan(output: Path) -> list[Line]:
    try:
        lines = [json.loads(line) for line in (output / PAIRS).read_text().splitlines()]
        return [line for line in lines if line["blurred"] and line["sharp"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{output / PAIRS} was edited ({error}); give a new or empty folder (--output=DIR)") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        stored = json.loads(path.read_text())
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise InputError(f"{path} was not written by this command; give a new or empty folder (--output=DIR)")
    return stored


def _remove_pairs(output: Path) -> None:
    """Remove the pairs of an earlier run, its settings last, and only files that it listed."""
    if (output / PAIRS).is_file():
        folders = set()
        for line in _read_plan(output):
            for path in (output / line["blurred"], output / line["sharp"]):
                path.unlink(missing_ok=True)
                folders |= {folder for folder in path.parents if output in folder.parents}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    for name in (PAIRS, SETTINGS):
        (output / name).unlink(missing_ok=True)


def _write_all(examples: Iterable[Example], output: Path, workers: int, report: Callable[[int], None]) -> None:
    """Encode in threads with only a few pairs in flight, so that memory does not grow with their number."""
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for done, (line, blurred, sharp) in enumerate(examples, start=1):
            pending.append(pool.submit(_write_pair, output, line, blurred, sharp))
            if len(pending) > 2 * workers:
                pending.popleft().result()
            report(done)
        for future in pending:
            future.result()


def _write_pair(output: Path, line: Line, blurred: np.ndarray, sharp: np.ndarray) -> None:
    for side, image in (("blurred", blurred), ("sharp", sharp)):
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "PNG", compress_level=3)  # three times faster than 6, and a tenth larger
        write_atomically(output / line[side], encoded.getvalue())


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve, it supports a link that points at itself
