"""Köhler's data set as entries: the assignment of ground truth frames to images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drsn_jax.data.images.listing import name_images
from drsn_jax.evaluation.metrics.koehler import KOEHLER_SKIPPED, parse_koehler_name
from drsn_jax.evaluation.scoring.entries import Entry, existing_folder
from drsn_jax.system.errors import InputError

Truths = Mapping[tuple[int, int], Sequence[tuple[int, Any]]]
"""(frame number, file) by (scene, trajectory)."""

_IMAGES, _FRAMES = 48, 150  # images of the benchmark, and the minimum number of frames (of about 199) for a complete trajectory
_TRUTH = re.compile(r"GroundTruth(\d+)(?:_(\d+)_(\d+))?$", re.IGNORECASE)


def koehler_entries(blurred: Mapping[str, Any], truths: Truths) -> list[Entry]:
    """Make entries of Köhler's images by name, without the frames that the benchmark skips.

    Raises InputError for names that are not Köhler's, and for images without ground truth.
    """
    entries = []
    for name in sorted(blurred):
        place = parse_koehler_name(name)
        skipped = KOEHLER_SKIPPED.get(place, ())
        frames = sorted((frame for frame in truths.get(place, ()) if frame[0] not in skipped), key=lambda frame: frame[0])
        if not frames:
            raise InputError(f"{name} has no ground truth (GroundTruth{place[0]}_{place[1]}_*, or GroundTruth{place[0]}); complete them.")
        middle = frames[len(frames) // 2][1]  # the camera's place at half time, for panels
        entries.append(Entry(name, blurred[name], middle, frames))
    return entries


def find_koehler_truths(folder: Path) -> Truths:
    """Find ground truth below a folder by (scene, trajectory), from the names.

    Names are GroundTruth<scene>_<trajectory>_<frame>, or GroundTruth<scene>, which serves all twelve trajectories. Raises InputError
    if there is neither kind, or both.
    """
    truths: dict[tuple[int, int], list[tuple[int, Path]]] = {}
    single: dict[int, Path] = {}
    for name, path in name_images(existing_folder(folder)).items():
        if match := _TRUTH.search(name):
            numbers = [int(number) for number in match.groups() if number]
            if len(numbers) == 1:
                single[numbers[0]] = path
            else:
                truths.setdefault((numbers[0], numbers[1]), []).append((numbers[2], path))
    if bool(truths) == bool(single):
        found = "both kinds" if truths else "none"
        raise InputError(
            f"{folder} must contain Köhler's ground truth, as GroundTruth1_1_1.png ... (all frames) or GroundTruth1.png ... (per scene);"
            f" it contains {found}."
        )
    return truths or {(scene, trajectory): [(1, path)] for scene, path in single.items() for trajectory in range(1, 13)}


def has_single_truths(entries: Sequence[Entry]) -> bool:
    """Check whether each image has only one ground truth, so that the scores are an approximation of the benchmark."""
    return all(len(entry.truths) == 1 for entry in entries)


def koehler_notes(entries: Sequence[Entry]) -> list[str]:
    """List notes for readers if the data are not the complete benchmark."""
    notes = []
    if len(entries) != _IMAGES:
        notes.append(f"The benchmark has {_IMAGES} images; these are {len(entries)} of them.")
    counts = [len(entry.truths) for entry in entries]
    if has_single_truths(entries):
        notes.append(
            "Each image was compared with the single ground truth of its scene, not with the frames of its trajectory: an approximation."
        )
    elif min(counts) < _FRAMES:
        notes.append(f"A trajectory of the benchmark has about 199 frames; here an image was compared with {min(counts)} to {max(counts)}.")
    return notes
