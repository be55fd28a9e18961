"""From the files and folders a user names to pairs of (file to restore, file to write)."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drsn_jax.data.images.photo import SUFFIXES, quoted, reason
from drsn_jax.restoration.video.coding import VIDEO_SUFFIXES
from drsn_jax.system.errors import InputError

RESTORED, PANEL = ".restored", ".panel.png"
_KNOWN = (*SUFFIXES, *VIDEO_SUFFIXES)


@dataclass
class Plan:
    """What is to be done: (source, target) pairs, inputs that cannot be done with a message each, and how many were no images.

    `results` are files and folders that were left out because an earlier run made them.
    """

    jobs: list[tuple[Path, Path]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: int = 0
    results: list[Path] = field(default_factory=list)


def plan_jobs(inputs: Sequence[Path], *, output: Path | None = None, output_format: str | None = None) -> Plan:
    """List every file to restore, sorted within each folder, with the name its result gets under `output`.

    Folders are searched whole, without following links to folders; their structure is kept. Hidden files, and `output` where it
    lies inside, are left out, and so is what an earlier run made of an image or a folder beside it, panels included, here and among
    `inputs`; files of other suffixes are counted. `output` is a folder, or the result's own name if the input is one file and `output`
    ends like an image; without it results lie beside their inputs, photo.restored.jpg and holiday.restored/. Images and videos alike,
    but `output_format` is of images alone. Raises InputError for no inputs, a folder with neither, a format that is not known, one
    file's name as `output` for several inputs, and two inputs that would be written to one file.
    """
    if not inputs:
        raise InputError("No input was given; name at least one image file or folder.")
    suffix = _suffix(output_format)
    plan, inputs = Plan(), [Path(path) for path in inputs]
    if output and len(inputs) == 1 and not inputs[0].is_dir() and not output.is_dir() and output.suffix.lower() in _KNOWN:
        if suffix and SUFFIXES.get(output.suffix.lower()) != SUFFIXES[suffix]:
            raise InputError(f"--output {quoted(output)} and --output-format {output_format} contradict each other; leave one away.")
        _add(plan, inputs[0], output)
        return plan
    if output and not output.is_dir() and output.suffix.lower() in _KNOWN:
        raise InputError(f"--output {quoted(output)} is the name of one file, and there are more to write; give a folder.")
    plan.results = _find_named_results(inputs)
    for path in (path for path in inputs if path not in plan.results):
        if path.is_dir():
            _add_folder(plan, path, output=output or _folder_beside(path), suffix=suffix)
        else:
            _add(plan, path, _named(output / path.name, suffix) if output else _file_beside(path, suffix))
    plan.jobs = _refuse_collisions(plan.jobs)
    return plan


def panel_path(target: Path) -> Path:
    """Where the panel of a result lies: out/photo.jpg.panel.png, with the whole name, since photo.png may lie there too."""
    return target.with_name(target.name + PANEL)


def is_video(path: Path) -> bool:
    """Whether the name ends like a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _suffix(output_format: str | None) -> str | None:
    suffix = f".{output_format.lower().lstrip('.')}" if output_format else None
    if suffix is not None and suffix not in SUFFIXES:
        raise InputError(f"Output format {quoted(output_format or '')} is not known; use one of {', '.join(s[1:] for s in SUFFIXES)}.")
    return suffix


def _named(target: Path, suffix: str | None) -> Path:
    if is_video(target):
        written = VIDEO_SUFFIXES[target.suffix.lower()]
        return target if target.suffix.lower() == written else target.with_suffix(written)
    return target.with_suffix(suffix) if suffix and SUFFIXES.get(target.suffix.lower()) != SUFFIXES[suffix] else target


def _file_beside(path: Path, suffix: str | None) -> Path:
    return path.with_name(f"{path.stem}{RESTORED}{_named(path, suffix).suffix}")


def _folder_beside(path: Path) -> Path:
    path = path if path.name not in ("", "..") else path.resolve()
    return path.parent / f"{path.name}{RESTORED}"


def _find_results(files: Collection[str], folders: Collection[str]) -> set[str]:
    """Those of the names of one folder that a run made of others of them."""
    stems = {Path(file).stem for file in files if Path(file).suffix.lower() in _KNOWN}
    panels = {file for file in files if file.endswith(PANEL) and file.removesuffix(PANEL) in files}
    restored = {file for file in files if (stem := Path(file).stem).endswith(RESTORED) and stem.removesuffix(RESTORED) in stems}
    return panels | restored | {folder for folder in folders if folder.endswith(RESTORED) and folder.removesuffix(RESTORED) in folders}


def _find_named_results(inputs: Sequence[Path]) -> list[Path]:
    """Results named together with what they were made of, as `restore *` run again does."""
    named: dict[Path, set[str]] = {}
    for path in inputs:
        named.setdefault(path.parent, set()).add(path.name)
    return [folder / name for folder, names in named.items() for name in sorted(_find_results(names, names))]


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
        here, results = Path(name), _find_results(files, folders)
        plan.results += sorted(here / result for result in results)
        folders[:] = sorted(sub for sub in folders if not sub.startswith(".") and sub not in results and (here / sub).resolve() != inner)
        visible = sorted(file for file in files if not file.startswith(".") and file not in results)
        found = [here / file for file in visible if Path(file).suffix.lower() in _KNOWN]
        images += found
        ignored += len(visible) - len(found)
    if not images and len(plan.failed) == failures:
        raise InputError(
            f"{quoted(folder)} holds no images and no videos ({ignored} other files); give a folder with files ending in "
            f"{', '.join(_KNOWN)}, or name the file itself."
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
