"""What is to be evaluated: files by name, read one at a time when their turn comes."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from drsn_jax.data.pairs import Pair, check_pairs, image_size, list_images, read_rgb
from drsn_jax.errors import InputError
from drsn_jax.evaluation.koehler import KOEHLER_SKIPPED, parse_koehler_name
from drsn_jax.evaluation.protocols import add_noise, apply_protocol
from drsn_jax.evaluation.scoring import Case

ImageFile = Any  # a Path or a StoredImage: whatever `read_rgb` takes
_TRUTH = re.compile(r"GroundTruth(\d+)(?:_(\d+)_(\d+))?$", re.IGNORECASE)

_SIDES = ("blur", "blur_gamma", "input")


class Entry(NamedTuple):
    """One image to evaluate. `sharp` is shown beside it; `truth_fn`, where given, opens what the scorer compares with instead."""

    name: str
    blurred: ImageFile
    sharp: ImageFile | None = None
    truth_fn: Callable[[], Iterator] | None = None
    others: Mapping[str, ImageFile] = {}


def read_case(entry: Entry, *, protocol: str, noise_variance: float, index: int) -> Case:
    """Decodes an entry at the protocol's size and adds the noise of its place in the sorted order to the blurred image.

    Raises InputError for files that cannot be read.
    """
    blurred = apply_protocol(read_rgb(entry.blurred), protocol=protocol)
    sharp = None if entry.sharp is None else apply_protocol(read_rgb(entry.sharp), protocol=protocol)
    return Case(
        name=entry.name,
        blurred=add_noise(blurred, variance=noise_variance, index=index),
        truth=entry.truth_fn or sharp,
        reference=sharp,
        others={name: apply_protocol(read_rgb(file), protocol=protocol) for name, file in entry.others.items()},
    )


def paired_entries(pairs: Sequence[Pair]) -> list[Entry]:
    """Entries of pairs, sorted by name. Raises InputError for files of unequal size or below 11x11, from their headers."""
    check_pairs(pairs)
    return [Entry(pair.name, pair.blurred, pair.sharp) for pair in sorted(pairs, key=lambda pair: pair.name)]


def existing_folder(folder: Path) -> Path:
    """The folder; InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; check the path.")
    return folder


def unpaired_entries(files: Mapping[str, ImageFile]) -> list[Entry]:
    """Entries of blurred images alone, by name."""
    return [Entry(name, files[name]) for name in sorted(files)]


def koehler_entries(blurred: Mapping[str, ImageFile], truths: Mapping[tuple[int, int], Sequence[tuple[int, ImageFile]]]) -> list[Entry]:
    """Entries of Köhler's data set. `truths` holds (frame number, file) for each (scene, trajectory).

    Raises InputError for names that are not Köhler's, and images without truth.
    """
    entries = []
    for name in sorted(blurred):
        place = parse_koehler_name(name)
        if place not in truths:
            raise InputError(f"{name} has no truth (GroundTruth{place[0]}_{place[1]}_*, or GroundTruth{place[0]}); complete them.")
        frames = truths[place]
        middle = frames[len(frames) // 2][1]  # the camera's place at half time: what a panel shows
        entries.append(Entry(name, blurred[name], middle, partial(_read_frames, frames)))
    return entries


def find_koehler_truths(folder: Path) -> tuple[dict[tuple[int, int], list[tuple[int, Path]]], bool]:
    """Truths below a folder by (scene, trajectory), and whether there is but one a scene.

    Names are GroundTruth<scene>_<trajectory>_<frame>, or GroundTruth<scene>, which then serves all twelve trajectories; the frame that the
    benchmark skips is left out. Raises InputError where there is neither, or both.
    """
    truths: dict[tuple[int, int], list[tuple[int, Path]]] = {}
    single: dict[int, Path] = {}
    for name, path in list_images(existing_folder(folder)).items():
        if not (match := _TRUTH.search(name)):
            continue
        numbers = [int(number) for number in match.groups() if number]
        if len(numbers) == 1:
            single[numbers[0]] = path
        elif numbers[2] not in KOEHLER_SKIPPED.get((numbers[0], numbers[1]), ()):
            truths.setdefault((numbers[0], numbers[1]), []).append((numbers[2], path))
    if bool(truths) == bool(single):
        found = "both kinds" if truths else "none"
        raise InputError(
            f"{folder} must hold Köhler's truths, either GroundTruth1_1_1.png ... (each frame) or GroundTruth1.png ... (one a scene);"
            f" it holds {found}."
        )
    if single:
        return {(scene, trajectory): [(1, path)] for scene, path in single.items() for trajectory in range(1, 13)}, True
    return {place: sorted(frames) for place, frames in truths.items()}, False


def _read_frames(frames: Iterable[tuple[int, ImageFile]]) -> Iterator[tuple[int, Any]]:
    return ((number, read_rgb(file)) for number, file in frames)


def add_others(entries: Sequence[Entry], folders: Mapping[str, Path]) -> list[Entry]:
    """Adds other methods' results, one folder a method, matched by relative name without suffix.

    Folders inside such a tree that GoPro's layout has and a method's output lacks (`blur`, `sharp`, `input`) do not count in names. Raises
    InputError for a folder that lacks an image, and for results of another size than the blurred image.
    """
    found = {method: _without_sides(list_images(existing_folder(folder))) for method, folder in folders.items()}
    for method, files in found.items():
        missing = [entry.name for entry in entries if entry.name not in files]
        if missing:
            raise InputError(
                f"{folders[method]} lacks {len(missing)} of {len(entries)} images ({', '.join(missing[:3])});"
                " a method's results have the names of the blurred images."
            )
    complete = [entry._replace(others={method: files[entry.name] for method, files in found.items()}) for entry in entries]
    with ThreadPoolExecutor(8) as pool:
        sizes = pool.map(image_size, [entry.blurred for entry in complete])
    for entry, size in zip(complete, sizes, strict=True):
        for method, file in entry.others.items():
            if (other := image_size(file)) != size:
                raise InputError(
                    f"{file} ({method}) is {other[0]}x{other[1]} and the blurred image {size[0]}x{size[1]} (height x width);"
                    " results must keep the size of the input."
                )
    return complete


def _without_sides(files: Mapping[str, Path]) -> dict[str, Path]:
    return {"/".join(part for part in name.split("/") if part not in _SIDES): path for name, path in files.items()}


def smallest_side(entries: Sequence[Entry], *, protocol: str) -> int:
    """The smallest height or width that will be scored, in pixels, from the headers."""
    if protocol == "resize256":
        return 256
    with ThreadPoolExecutor(8) as pool:
        side = min(min(size) for size in pool.map(image_size, [entry.blurred for entry in entries]))
    return side // 2 if protocol == "half" else side
