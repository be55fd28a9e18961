"""From the files and folders a user names to pairs of (file to restore, file to write)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drsn_jax.errors import InputError
from drsn_jax.restoration.photo import SUFFIXES, quoted, reason


@dataclass
class Plan:
    """What is to be done: (source, target) pairs, inputs that cannot be done with a message each, and how many were no images."""

    jobs: list[tuple[Path, Path]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: int = 0


def plan_jobs(inputs: Sequence[Path], *, output: Path, output_format: str | None = None) -> Plan:
    """List every file to restore, sorted within each folder, with the name its result gets under `output`.

    Folders are searched whole, without following links to folders; their structure is kept. Hidden files, and `output` where it
    lies inside, are left out; files of other suffixes are counted. `output` is a folder, or the result's own name if the input
    is one file and `output` ends like an image. Raises InputError for no inputs, a folder without images, a format that is not
    known, and two inputs that would be written to one file.
    """
    if not inputs:
        raise InputError("No input was given; name at least one image file or folder.")
    suffix = _suffix(output_format)
    plan, inputs = Plan(), [Path(path) for path in inputs]
    if len(inputs) == 1 and not inputs[0].is_dir() and not output.is_dir() and output.suffix.lower() in SUFFIXES:
        if suffix and SUFFIXES[output.suffix.lower()] != SUFFIXES[suffix]:
            raise InputError(f"--output {quoted(output)} and --output-format {output_format} contradict each other; leave one away.")
        _add(plan, inputs[0], output)
        return plan
    for path in inputs:
        if path.is_dir():
            _add_folder(plan, path, output=output, suffix=suffix)
        else:
            _add(plan, path, _named(output / path.name, suffix))
    plan.jobs = _refuse_collisions(plan.jobs)
    return plan


def _suffix(output_format: str | None) -> str | None:
    suffix = f".{output_format.lower().lstrip('.')}" if output_format else None
    if suffix is not None and suffix not in SUFFIXES:
        raise InputError(f"Output format {quoted(output_format or '')} is not known; use one of {', '.join(s[1:] for s in SUFFIXES)}.")
    return suffix


def _named(target: Path, suffix: str | None) -> Path:
    return target.with_suffix(suffix) if suffix and SUFFIXES.get(target.suffix.lower()) != SUFFIXES[suffix] else target


def _add(plan: Plan, source: Path, target: Path) -> None:
    if os.path.lexists(source):
        plan.jobs.append((source, target))
    else:
        plan.failed.append((source, f"{quoted(source)} does not exist; check the name."))


def _add_folder(plan: Plan, folder: Path, *, output: Path, suffix: str | None) -> None:
    def report(error: OSError) -> None:
        plan.failed.append((Path(error.filename), f"{quoted(error.filename)} cannot be searched ({reason(error)}); check its permissions."))

    images, ignored, failures = [], 0, len(plan.failed)
    inner = output.resolve()
    for name, folders, files in os.walk(folder, onerror=report):
        here = Path(name)
        folders[:] = sorted(sub for sub in folders if not sub.startswith(".") and (here / sub).resolve() != inner)
        visible = sorted(file for file in files if not file.startswith("."))
        found = [here / file for file in visible if Path(file).suffix.lower() in SUFFIXES]
        images += found
        ignored += len(visible) - len(found)
    if not images and len(plan.failed) == failures:
        raise InputError(
            f"{quoted(folder)} holds no images ({ignored} other files); give a folder with files ending in {', '.join(SUFFIXES)}, "
            "or name the file itself."
        )
    plan.ignored += ignored
    plan.jobs += [(image, _named(output / image.relative_to(folder), suffix)) for image in images]


def _refuse_collisions(jobs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """The jobs without inputs named twice; raises InputError where two different ones share a target."""
    taken: dict[Path, Path] = {}
    for source, target in jobs:
        first = taken.setdefault(target, source)
        if first.resolve() != source.resolve():
            raise InputError(
                f"{quoted(first)} and {quoted(source)} would both be written to {quoted(target)}; "
                "rename one of them, or restore them into different folders."
            )
    return [(source, target) for target, source in taken.items()]
