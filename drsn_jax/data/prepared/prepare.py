"""Preparation of a benchmark: a survey of the download, then its storage as a TensorFlow data set, whole or not at all."""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging as absl_logging

from drsn_jax.data.benchmarks import FOLDERS, survey_source
from drsn_jax.data.benchmarks.survey import Example, Survey, check_complete, shown_size
from drsn_jax.data.benchmarks.tree import first_three
from drsn_jax.data.prepared.manifest import check_same
from drsn_jax.data.prepared.sets import default_data_dir, version_folder
from drsn_jax.data.prepared.stored import import_tfds
from drsn_jax.system.errors import InputError
from drsn_jax.system.locks import lock_folder
from drsn_jax.system.progress import Progress, draw_bar

_REPLACED, _NEW = "incomplete.replaced", "incomplete.new"  # of an --overwrite, beside the version to replace


class Prepared(NamedTuple):
    """The stored set: its NAME[/CONFIG], its folder, its metadata; `written` is False if it existed before."""

    title: str
    folder: Path
    metadata: Mapping[str, Any]
    written: bool


def prepare_dataset(
    dataset: str,
    *,
    source: str | Path,
    variant: str = "",
    data_dir: Path | None = None,
    allow_incomplete: bool = False,
    check_only: bool = False,
    overwrite: bool = False,
    say_fn: Callable[[str], object] | None = None,
    **options: Any,
) -> Prepared | None:
    """Store the content of the folder or .zip file `source` as a data set of `benchmarks.CONFIGS`; None with `check_only`.

    `data_dir` defaults to that of tfds. `variant` is one of `CONFIGS`, or the name of the user's own pairs. `options` are those of the data
    set's survey. The table of the survey is passed to `say_fn` (default: stdout) before anything is written. An existing set with the same
    files (see `manifest.check_same`) is kept; with `overwrite` the new set replaces it once it is complete. Raises `InputError` if parts
    are missing, damaged or of a wrong size; with `allow_incomplete` the rest is stored, with a note in the metadata. Raises it also if
    other examples are stored already, if there is no room, or if tfds is missing.
    """
    say: Callable[[str], object] = say_fn or sys.stdout.write
    survey = survey_source(dataset, source, variant=variant, **options)
    say(format_survey(survey))
    check_complete(survey, allow_incomplete=allow_incomplete)
    if check_only:
        return None
    tfds, data_dir = import_tfds(), Path(data_dir or default_data_dir()).expanduser()
    place = data_dir / survey.title
    with lock_folder(place, doing=f"preparing {survey.title}"):
        if removed := _clear(place):
            say(f"Removed what {removed} interrupted preparation{'s' if removed > 1 else ''} had left in {place}\n")
        there = version_folder(data_dir, survey.title)
        if there and not overwrite:
            metadata = _check_same(there, survey)
            say(f"{survey.title} already exists: {there}\n")
            return Prepared(survey.title, there, metadata, written=False)
        _check_room(survey, data_dir)
        folder = _build(tfds, dataset, variant, survey, data_dir=data_dir, skip_damaged=allow_incomplete, replace=there is not None)
    metadata = json.loads((folder / "metadata.json").read_text())
    say(_summary(survey.title, folder, metadata))
    return Prepared(survey.title, folder, metadata, written=True)


def _build(tfds: Any, dataset: str, variant: str, survey: Survey, *, data_dir: Path, skip_damaged: bool, replace: bool) -> Path:
    from drsn_jax.data.prepared import builders

    place = data_dir / survey.title
    chosen = tfds.core.BuilderConfig(name=variant) if dataset == FOLDERS else variant or None
    totals, progress = {split: len(examples) for split, examples in survey.splits.items()}, Progress()
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(progress), _quiet(tfds):
        builder = builders.BUILDERS[dataset](data_dir=place / _NEW if replace else data_dir, config=chosen)
        builder.survey, builder.skip_damaged = survey, skip_damaged
        builder.on_example = lambda split, done: progress(f"{split} {draw_bar(done, totals[split])}")
        builder.download_and_prepare(download_dir=scratch, download_config=tfds.download.DownloadConfig(compute_stats="skip"))
    whole = Path(builder.data_dir)
    if not replace:
        return whole
    final = place / whole.name
    if final.exists():
        os.replace(final, place / _REPLACED)
    os.replace(whole, final)
    _clear(place)
    return final


@contextlib.contextmanager
def _quiet(tfds: Any) -> Iterator[None]:
    """Silence tfds, which announces downloads on stdout, warns about unknown configurations, and draws bars into logs."""
    before = absl_logging.get_verbosity()
    tfds.disable_progress_bar()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(before)


def _clear(place: Path) -> int:
    """Remove the remains of interrupted preparations, except an old version that was to be replaced. Returns their number."""
    stale = [path for path in place.glob("incomplete.*") if path.is_dir()]
    for path in stale:
        if path.name == _REPLACED and version_folder(place, ".") is None:
            os.replace(path, place / "1.0.0")
        else:
            shutil.rmtree(path)
    return len(stale)


def _check_same(there: Path, survey: Survey) -> dict[str, Any]:
    """Return the metadata of the stored set if it is the same."""
    try:
        metadata = json.loads((there / "metadata.json").read_text())
        with contextlib.closing(Progress()) as progress:
            check_same(there, metadata, survey, report=lambda done, total: progress(f"comparing {draw_bar(done, total)}"))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{there} is damaged ({error}); replace it with --overwrite, or choose another --data-dir") from error
    return metadata


def _check_room(survey: Survey, data_dir: Path) -> None:
    free = shutil.disk_usage(data_dir).free
    if free < survey.num_bytes:
        raise InputError(
            f"{survey.title} needs {survey.num_bytes / 1e9:.1f} GB, and {data_dir} has {free / 1e9:.1f} GB left; "
            "make room there or choose another --data-dir"
        )


def _summary(title: str, folder: Path, metadata: Mapping[str, Any]) -> str:
    splits = ", ".join(f"{title}:{split} ({len(stored['names']):,})" for split, stored in metadata["splits"].items())
    damaged = [problem for stored in metadata["splits"].values() for problem in stored["damaged"]]
    usage = f"{title}, both of {splits}" if metadata["kind"] == "koehler" else splits
    lines = [f"Prepared {folder}", f"Use it as {usage}"]
    if damaged:
        lines.insert(1, f"Left out, damaged: {len(damaged):,} ({damaged[0]})")
    return "\n".join(lines) + "\n"


def format_survey(survey: Survey) -> str:
    """Format found and expected contents, missing, extra and damaged files, and the splits to store."""
    unit = "pairs" if survey.kind == "pairs" else "images"
    rows = [("part", "scenes", unit, "size")]
    for name, part in survey.parts.items():
        found, expected = part.found, part.expected
        counts = (_count(found.scenes, expected.scenes), _count(found.examples, expected.examples))
        rows.append((name, *counts, _sizes(part.examples)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{survey.title} in {survey.source}"]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"Not as expected: {problem}" for problem in survey.problems]
    lines += survey.notes
    if survey.extra:
        lines.append(f"Other files, ignored: {len(survey.extra):,} ({first_three(survey.extra)})")
    splits = ", ".join(f"{name} {len(examples):,}" for name, examples in survey.splits.items() if examples)
    lines.append(f"Splits: {splits or 'none'}; {survey.num_bytes / 1e9:.2f} GB")
    return "\n".join(lines) + "\n"


def _count(found: int | None, expected: int | None) -> str:
    return (f"{found:,}" if found else "-") if expected is None else f"{found:,} of {expected:,}"


def _sizes(examples: Sequence[Example]) -> str:
    """Format '1280x720', or the smallest to the largest size by area."""
    sizes = sorted({size for example in examples for size in example.sizes.values()}, key=lambda size: (size[0] * size[1], size))
    if not sizes:
        return "-"
    return shown_size(sizes[0]) if len(sizes) == 1 else f"{shown_size(sizes[0])} to {shown_size(sizes[-1])}"
