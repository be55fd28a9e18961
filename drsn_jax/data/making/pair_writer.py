"""Pairs made by a command and written to disk: resumable at any moment, byte for byte the same as in one go.

The folder holds `settings.json` (what was asked for) and `pairs.jsonl` (one line for each pair, written before the first image: also
the plan). A pair is done when both its images are there; each is written under another name and renamed, the sharp one last.
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
    """How many pairs the folder holds, and how many of them this run made."""

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
    """Makes the pairs that `plan_fn` plans and writes them as PNG below `output`, those that are there already left alone.

    `settings` (values that JSON holds) must decide on every byte: a folder made with others is refused. `plan_fn` runs once for a folder,
    or each time with `extend`: then the plan may change, but for the pairs that are there. `examples_fn` yields examples, of uint8
    0..255, for the lines that it is given. `workers` threads encode. Raises `InputError` for a folder with pairs made with other
    settings (naming them; with `overwrite` they are removed), with anything else in it, or that another process writes to, and
    whatever the two functions raise, before anything is written or removed if `plan_fn` does.
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
        for left in output.rglob(".drsn-*"):  # of a run that was killed in the middle of a file
            left.unlink(missing_ok=True)
    return Made(len(plan), len(missing))


def check_apart(output: Path, sources: Sequence[Path]) -> None:
    """Raises `InputError` where the pairs would be written into a source, or beside the files that it consists of."""
    for source in sources:
        if _real(source) in (_real(output), *_real(output).parents):
            raise InputError(f"--output={output} lies inside --source={source}; give a folder outside it")


def check_empty(output: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raises `InputError` where a new set of pairs may not begin in `output`: a file, other settings, or somebody else's files."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; give a folder for the pairs (--output=DIR)")
    there = [] if not output.exists() else [path.name for path in output.iterdir() if not path.name.startswith(".")]
    if there and SETTINGS not in there:
        raise InputError(
            f"{output} holds files of something else ({', '.join(sorted(there)[:3])}); give a new or empty folder (--output=DIR)"
        )
    if there and not overwrite:
        refuse_other_settings(str(output), _read_json(output / SETTINGS), settings)


def refuse_other_settings(where: str, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises `InputError` naming the settings in which pairs that are there differ from those that are asked for."""
    differing = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
    if differing:
        had, has = (", ".join(f"{key}={json.dumps(one.get(key))}" for key in differing) for one in (stored, settings))
        raise InputError(f"{where} holds pairs made with {had}; now it is {has}: give another folder, the same settings, or --overwrite")


def _is_void(output: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds the plan of other settings, of which no image was made: nothing is lost if that goes."""
    if not (output / PAIRS).is_file() or not (output / SETTINGS).is_file() or _read_json(output / SETTINGS) == settings:
        return False
    return not any(_has_image(output, line) for line in _read_plan(output))


def _has_image(output: Path, line: Line) -> bool:
    return any((output / line[side]).exists() for side in ("blurred", "sharp"))


def _resume(output: Path, settings: Mapping[str, Any]) -> list[Line] | None:
    """The plan that the folder holds, made with the same settings; None where there is none yet."""
    if not (output / PAIRS).is_file() or not (output / SETTINGS).is_file():
        return None
    refuse_other_settings(str(output), _read_json(output / SETTINGS), settings)
    return _read_plan(output)


def _extended(output: Path, stored: list[Line], plan: list[Line]) -> list[Line]:
    """The new plan, written, unless a pair that is there is not part of it."""
    named = {line["name"]: line for line in plan}
    gone = [line for line in stored if named.get(line["name"]) != line and _has_image(output, line)]
    if gone:
        raise InputError(
            f"{output} holds pairs whose source is gone or has changed ({len(gone)}, the first is {gone[0]['name']}); "
            "bring it back, give another folder, or --overwrite"
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
        raise InputError(f"{output / PAIRS} was changed by hand ({error}); give a new or empty folder (--output=DIR)") from error


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        stored = json.loads(path.read_text())
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise InputError(f"{path} was not written by this command; give a new or empty folder (--output=DIR)")
    return stored


def _remove_pairs(output: Path) -> None:
    """Removes what an earlier run made, its settings last, and nothing that it did not list."""
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
    """Encodes in threads, a few pairs in flight: the memory stays the same however many there are."""
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
    return Path(os.path.realpath(path))  # unlike Path.resolve, it takes a link that points at itself
