"""Restoration of many files: each result is whole or absent, and a bad file never stops the others."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float

from drsn_jax.data.images.photo import Photo, quoted
from drsn_jax.data.images.reader import read_photo
from drsn_jax.restoration.core.restorer import RestoreFn
from drsn_jax.restoration.files.images import check_target, encode_panel, write_file, write_photo
from drsn_jax.restoration.files.targets import Encoding, plan_encoding
from drsn_jax.restoration.jobs import is_video, panel_path, plan_jobs
from drsn_jax.restoration.video.restore import describe, restore_video
from drsn_jax.system.ahead import map_ahead
from drsn_jax.system.errors import InputError


@dataclass
class RestoreReport:
    """Written files, failed inputs with one line each, and the number of files in folders that are no images."""

    restored: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: int = 0


@dataclass
class _Work:
    """One photograph on its way from `source` to `target`."""

    source: Path
    target: Path
    panel: Path | None
    photo: Photo | None = None
    encoding: Encoding | None = None
    restored: Float[np.ndarray, "h w 3"] | None = None
    seconds: float = 0.0
    error: str = ""  # the reason why it failed


def restore_files(
    inputs: Sequence[Path],
    *,
    output: Path | None = None,
    restore_fn: RestoreFn,
    frame_fn: RestoreFn | None = None,
    overwrite: bool = False,
    output_format: str | None = None,
    panel: bool = False,
) -> RestoreReport:
    """Restore images, videos and whole folders into `output`, one after the other, the videos last, with progress on stderr.

    While one photograph is restored, a thread reads the next and another writes the last, so up to three are in memory. Videos go through
    `restore_video`. `restore_fn` is made by `make_restore_fn`, and `frame_fn` is the same for videos. `inputs`, `output` and
    `output_format` ('png', 'jpg', ...) are those of `plan_jobs`. With `panel` a picture of before and after is written beside each restored
    photograph (`panel_path`).

    An input fails if it is missing, cannot be read or restored, or if its result exists or cannot be written. It becomes a line in the
    report's `failed`, and the others are still restored. Raises InputError only for errors of the whole list: see `plan_jobs`.
    """
    plan = plan_jobs([Path(path) for path in inputs], output=output, output_format=output_format)
    report = RestoreReport(failed=list(plan.failed), ignored=plan.ignored)
    progress = _Progress(total=len(plan.jobs) + len(plan.failed))
    if plan.results:
        sys.stderr.write(f"Skipped {len(plan.results)} results of earlier runs, the first {quoted(plan.results[0])}.\n")
    for source, message in plan.failed:
        progress.done(source, message)

    def finish(work: _Work) -> None:
        _unless_failed(partial(_write, overwrite=overwrite), work)
        if work.error:
            report.failed.append((work.source, work.error))
        else:
            report.restored.append(work.target)
        progress.done(work.source, work.error or _describe(work))
        work.photo = work.restored = None  # frees memory for the next one

    images = [job for job in plan.jobs if not is_video(job[0])]
    works = [_Work(source, target, panel_path(target) if panel else None) for source, target in images]
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        read = map_ahead(reader, partial(_unless_failed, partial(_read, overwrite=overwrite)), works)
        restored = map(partial(_unless_failed, partial(_restore, restore_fn=restore_fn, progress=progress)), read)
        for _ in map_ahead(writer, finish, restored):
            pass
    videos = [job for job in plan.jobs if is_video(job[0])]
    if unused := [name for name, given in {"--panel": panel, "--output-format": output_format}.items() if given and videos]:
        sys.stderr.write(f"For photographs only, so not applied to videos: {' and '.join(unused)}.\n")
    _restore_videos(videos, report, progress, restore_fn=frame_fn or restore_fn, overwrite=overwrite)
    return report


def _restore_videos(
    jobs: Iterable[tuple[Path, Path]], report: RestoreReport, progress: "_Progress", *, restore_fn: RestoreFn, overwrite: bool
) -> None:
    for source, target in jobs:
        progress.start(source)
        try:
            restored = restore_video(source, target, restore_fn=restore_fn, overwrite=overwrite)
        except InputError as error:
            report.failed.append((source, str(error)))
            progress.done(source, str(error))
        else:
            report.restored.append(target)
            progress.done(source, f"{quoted(source)} -> {quoted(target)}  {describe(restored)}")


def _unless_failed(step: Callable[[_Work], None], work: _Work) -> _Work:
    if not work.error:
        try:
            step(work)
        except InputError as error:
            work.error = str(error)
    return work


def _read(work: _Work, *, overwrite: bool) -> None:
    for path in [work.target, work.panel]:
        if path:
            check_target(path, overwrite=overwrite)
    work.photo = read_photo(work.source)
    work.encoding = plan_encoding(work.photo, work.target)  # so that missing features are reported before the slow part


def _restore(work: _Work, *, restore_fn: RestoreFn, progress: "_Progress") -> None:
    assert work.photo is not None
    progress.start(work.source)
    started = time.perf_counter()
    try:
        work.restored = restore_fn(work.photo.rgb)
    except InputError as error:
        raise InputError(f"{quoted(work.source)}: {error}") from error
    work.seconds = time.perf_counter() - started


def _write(work: _Work, *, overwrite: bool) -> None:
    assert work.photo is not None
    assert work.restored is not None
    write_photo(work.photo, work.restored, work.target, overwrite=overwrite, encoding=work.encoding)
    if work.panel:
        write_file(encode_panel(work.photo, work.restored), work.panel, overwrite=overwrite)


def _describe(work: _Work) -> str:
    assert work.photo is not None
    assert work.encoding is not None
    height, width = work.photo.samples.shape[:2]
    written = quoted(work.target) + (f" and {quoted(work.panel)}" if work.panel else "")
    return "; ".join([f"{quoted(work.source)} -> {written}  {width}x{height} in {work.seconds:.1f} s", *work.encoding.notes])


class _Progress:
    """The progress: one line about the current work on a terminal, below the finished files; elsewhere only the finished files.

    Restoring and writing call it from different threads.
    """

    def __init__(self, *, total: int):
        self._total, self._done, self._terminal = total, 0, sys.stderr.isatty()
        self._current: Path | None = None
        self._lock = Lock()

    def start(self, source: Path) -> None:
        with self._lock:
            self._current = source
            self._show()

    def done(self, source: Path, line: str) -> None:
        with self._lock:
            self._done += 1
            self._current = None if self._current == source else self._current
            self._write(("\r\x1b[K" if self._terminal else "") + f"[{self._done}/{self._total}] {line}\n")
            self._show()

    def _show(self) -> None:
        if self._terminal and self._current:
            self._write(f"\r\x1b[K[{self._done}/{self._total}] restoring {quoted(self._current.name)} ...")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
