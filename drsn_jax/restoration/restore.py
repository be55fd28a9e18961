"""Many files through the generator: each one is whole or absent, and a bad one never stops the others."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drsn_jax.errors import InputError
from drsn_jax.restoration.images import check_target, read_photo, target_mode, write_photo
from drsn_jax.restoration.jobs import plan_jobs
from drsn_jax.restoration.photo import quoted
from drsn_jax.restoration.tiling import check_tile, restore_array


@dataclass
class RestoreReport:
    """Files written, inputs that failed with one line each, and the number of files in folders that are no images."""

    restored: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: int = 0


def restore_files(
    inputs: Sequence[Path],
    *,
    output: Path,
    predict_fn: Callable,
    stride: int,
    tile: int | None = 768,
    overlap: int = 64,
    overwrite: bool = False,
    output_format: str | None = None,
) -> RestoreReport:
    """Restore image files and whole folders into `output`, one after the other, with progress on stderr.

    `predict_fn`, `stride`, `tile` and `overlap` are those of `restore_array`; `inputs`, `output` and `output_format` ('png',
    'jpg', ...) those of `plan_jobs`. An input that is missing, cannot be read, or whose result exists or cannot be written is a
    line in the report's `failed` and the others are still done. Raises InputError for what concerns all of them: see `plan_jobs`
    and `check_tile`.
    """
    check_tile(stride=stride, tile=tile, overlap=overlap)
    plan = plan_jobs([Path(path) for path in inputs], output=Path(output), output_format=output_format)
    report = RestoreReport(failed=list(plan.failed), ignored=plan.ignored)
    progress = _Progress(total=len(plan.jobs) + len(plan.failed))
    for _, message in plan.failed:
        progress.done(message)
    for source, target in plan.jobs:
        progress.start(source)
        try:
            line = _restore_file(source, target, overwrite=overwrite, predict_fn=predict_fn, stride=stride, tile=tile, overlap=overlap)
        except InputError as error:
            report.failed.append((source, str(error)))
            progress.done(str(error))
        else:
            report.restored.append(target)
            progress.done(line)
    return report


def _restore_file(source: Path, target: Path, *, overwrite: bool, **tiling) -> str:
    check_target(target, overwrite=overwrite)
    photo = read_photo(source)
    target_mode(photo, target)  # a format that cannot hold the photo is to be known before the slow part
    started = time.perf_counter()
    try:
        restored = restore_array(photo.rgb, **tiling)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):  # how jax says that the device is full
            raise
        raise InputError(f"{quoted(source)} does not fit in memory; {_less_memory(tiling['tile'], tiling['stride'])}.") from error
    seconds = time.perf_counter() - started
    write_photo(photo, restored, target, overwrite=overwrite)
    height, width = photo.rgb.shape[:2]
    return f"{quoted(source)} -> {quoted(target)}  {width}x{height}  {seconds / (height * width / 1e6):.2f} s/MP"


def _less_memory(tile: int | None, stride: int) -> str:
    if tile is None:
        return "use more devices, or restore in tiles (without --whole)"
    return f"use smaller tiles (--tile={max(tile // 2 // stride, 1) * stride})"


class _Progress:
    """On a terminal one line that says what is being done, over which finished files scroll away; elsewhere only those."""

    def __init__(self, *, total: int):
        self._total, self._done, self._terminal = total, 0, sys.stderr.isatty()

    def start(self, source: Path) -> None:
        if self._terminal:
            self._write(f"\r\x1b[K[{self._done}/{self._total}] restoring {quoted(source.name)} ...")

    def done(self, line: str) -> None:
        self._done += 1
        self._write(("\r\x1b[K" if self._terminal else "") + f"[{self._done}/{self._total}] {line}\n")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
