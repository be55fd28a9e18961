"""The lists of files to restore and to write, made from the files and folders that a user gives."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drsn_jax.config.values import nearest
from drsn_jax.data.images.listing import walk_visible
from drsn_jax.data.images.opening import format_of
from drsn_jax.data.images.photo import PHONE_FORMATS, SUFFIXES, quoted, reason
from drsn_jax.restoration.video.coding import VIDEO_SUFFIXES
from drsn_jax.system.errors import InputError

RESTORED, PANEL = ".restored", ".panel.png"
_KNOWN = (*SUFFIXES, *VIDEO_SUFFIXES)
_PHONE_SUFFIX = ".jpg"  # for results of a phone's HEIC or AVIF


@dataclass
class Plan:
    """The work: (source, target) pairs, inputs that failed with a message each, and the number of other files.

    `results` are files and folders that are skipped because an earlier run made them.
    """

    jobs: list[tuple[Path, Path]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    ignored: int = 0
    results: list[Path] = field(default_factory=list)


def plan_jobs(inputs: Sequence[Path], *, output: Path | None = None, output_format: str | None = None) -> Plan:
    """List every file to restore, sorted within each folder, with the name of its result under `output`.

    - Folders are searched completely (`walk_visible`), and their structure is kept. Files of other suffixes are counted.
    - `output` is skipped if it lies inside. So are the results of earlier runs, with their panels, in folders and among `inputs`.
    - `output` is a folder, or the result's own name if the input is one file and `output` ends like an image. Without it results lie
      beside their inputs, as photo.restored.jpg and holiday.restored/.
    - A phone's HEIC or AVIF becomes JPEG. The result of an image without a suffix gets that of its content. `output_format` only
      applies to images.

    Raises InputError for no inputs, a folder without images and videos, and an unknown format. It is also raised for a file as `output` for
    several inputs, and for two inputs with the same target.
    """
    if not inputs:
        raise InputError("No input was given; name at least one image file or folder.")
    suffix = _suffix(output_format)
    plan, inputs = Plan(), [Path(path) for path in inputs]
    if output and len(inputs) == 1 and not inputs[0].is_dir() and not output.is_dir() and output.suffix.lower() in _KNOWN:
        if suffix and SUFFIXES.get(output.suffix.lower()) != SUFFIXES[suffix]:
            raise InputError(f"--output {quoted(output)} and --output-format {output_format} contradict each other; omit one.")
        _add(plan, inputs[0], output)
        return plan
    if output and len(inputs) == 1 and output.suffix and not (inputs[0].is_dir() or output.exists() or output.suffix.lower() in _KNOWN):
        hint = nearest(output.suffix.lower(), _KNOWN) or f"; use one of {', '.join(_KNOWN)}"
        raise InputError(f"--output {quoted(output)}: its suffix is not that of a format{hint}; if it is meant as a folder, make it first.")
    if output and not output.is_dir() and output.suffix.lower() in _KNOWN:
        raise InputError(f"--output {quoted(output)} is a single file, but there are several results; give a folder.")
    plan.results = _find_named_results(inputs)
    for path in (path for path in inputs if path not in plan.results):
        if path.is_dir():
            _add_folder(plan, path, output=output or _folder_beside(path), suffix=suffix)
        else:
            _add(plan, path, _named(output / path.name, suffix) if output else _file_beside(path, suffix))
    plan.jobs = _refuse_collisions(_rename_phones(plan.jobs))
    return plan


def panel_path(target: Path) -> Path:
    """Return the path of a result's panel: out/photo.jpg.panel.png, with the whole name, because photo.png may exist too."""
    return target.with_name(target.name + PANEL)


def is_video(path: Path) -> bool:
    """Check whether the name ends like a video's."""
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
    own = SUFFIXES.get(target.suffix.lower())
    if not suffix and own in PHONE_FORMATS:
        return target.with_suffix(_PHONE_SUFFIX)
    return target.with_suffix(suffix) if suffix and own != SUFFIXES[suffix] else target


def _file_beside(path: Path, suffix: str | None) -> Path:
    """Return the name of the result beside its input; if the name has no suffix, by the content."""
    named = path if path.suffix else path.with_suffix(_content_suffix(path))
    return path.with_name(f"{path.stem}{RESTORED}{_named(named, suffix).suffix}")


def _content_suffix(path: Path) -> str:
    format = format_of(path)
    return next((suffix for suffix, name in SUFFIXES.items() if name == format), "")


def _folder_beside(path: Path) -> Path:
    path = path if path.name not in ("", "..") else Path(os.path.realpath(path))
    return path.parent / f"{path.name}{RESTORED}"


def _find_results(files: Collection[str], folders: Collection[str]) -> set[str]:
    """Find the names in one folder that a run made from others of them."""
    images = {file for file in files if Path(file).suffix.lower() in _KNOWN}
    stems = images | {Path(file).stem for file in images}
    panels = {file for file in files if file.endswith(PANEL) and file.removesuffix(PANEL) in files}
    restored = {file for file in files if (stem := Path(file).stem).endswith(RESTORED) and stem.removesuffix(RESTORED) in stems}
    return panels | restored | {folder for folder in folders if folder.endswith(RESTORED) and folder.removesuffix(RESTORED) in folders}


def _find_named_results(inputs: Sequence[Path]) -> list[Path]:
    """Find results that are given together with their sources, as in a second `restore *`."""
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
    inner = os.path.realpath(output)
    for here, folders, files in walk_visible(folder, on_error=report):
        results = _find_results(files, folders)
        plan.results += sorted(here / result for result in results)
        folders[:] = [sub for sub in folders if sub not in results and os.path.realpath(here / sub) != inner]
        visible = [file for file in files if file not in results]
        found = [here / file for file in visible if Path(file).suffix.lower() in _KNOWN]
        images += found
        ignored += len(visible) - len(found)
    if not images and len(plan.failed) == failures:
        raise InputError(
            f"{quoted(folder)} holds no images and no videos ({ignored} other files). Give a folder with files ending in "
            f"{', '.join(_KNOWN)}, or name the file itself."
        )
    plan.ignored += ignored
    plan.jobs += [(image, _named(output / image.relative_to(folder), suffix)) for image in images]


def _rename_phones(jobs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Resolve names of phones: if a.heic and a.jpg are in one folder, the result of the first is a.heic.jpg."""
    sources: dict[Path, set[Path]] = {}
    for source, target in jobs:
        sources.setdefault(target, set()).add(source)
    shared = {target for target, of in sources.items() if len(of) > 1}

    def rename(source: Path, target: Path) -> Path:
        if target not in shared or SUFFIXES.get(source.suffix.lower()) not in PHONE_FORMATS:
            return target
        return target.with_name(source.name + target.name.removeprefix(source.stem))

    return [(source, rename(source, target)) for source, target in jobs]


def _refuse_collisions(jobs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Remove inputs that are given twice; raises InputError if two different ones share a target."""
    taken: dict[Path, Path] = {}
    for source, target in jobs:
        first = taken.setdefault(target, source)
        if os.path.realpath(first) != os.path.realpath(source):  # unlike Path.resolve, it supports a link that points at itself
            raise InputError(
                f"{quoted(first)} and {quoted(source)} would both be written to {quoted(target)}; "
                "rename one of them, or restore them into different folders."
            )
    return [(source, target) for target, source in taken.items()]
