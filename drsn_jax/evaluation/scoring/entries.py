"""The images of an evaluation: files by name, read one at a time."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from drsn_jax.data.images.opening import ImageSource
from drsn_jax.data.images.rgb import image_size, read_rgb
from drsn_jax.data.pairs.folders import Pair, check_pairs
from drsn_jax.evaluation.scoring.protocols import add_noise, apply_protocol, scored_size
from drsn_jax.evaluation.scoring.scores import Case
from drsn_jax.system.errors import InputError


class Entry(NamedTuple):
    """One image to evaluate.

    `sharp` is shown beside it. It is the ground truth unless there are `truths`: numbered frames of a trajectory.

    `others` are the results of other methods for the same input: at the protocol's size, with its noise.
    """

    name: str
    blurred: ImageSource
    sharp: ImageSource | None = None
    truths: Sequence[tuple[int, ImageSource]] = ()
    others: Mapping[str, ImageSource] = {}


def read_case(entry: Entry, *, protocol: str, noise_variance: float, index: int) -> Case:
    """Decode an entry at the protocol's size, and add noise, seeded by its index in sorted order, to the blurred image.

    Raises InputError for unreadable files.
    """
    sharp = None if entry.sharp is None else apply_protocol(read_rgb(entry.sharp), protocol=protocol)
    return Case(
        name=entry.name,
        blurred=read_input(entry, protocol=protocol, noise_variance=noise_variance, index=index),
        truth=partial(_read_frames, entry.truths) if entry.truths else sharp,
        reference=sharp,
        others={name: read_rgb(file) for name, file in entry.others.items()},
    )


def read_input(entry: Entry, *, protocol: str, noise_variance: float, index: int) -> Any:
    """Return the blurred image for every method, uint8 [h w 3]: at the protocol's size, with the noise of seed `index`."""
    return add_noise(apply_protocol(read_rgb(entry.blurred), protocol=protocol), variance=noise_variance, index=index)


def _read_frames(frames: Sequence[tuple[int, ImageSource]]) -> Iterator[tuple[int, Any]]:
    return ((number, read_rgb(file)) for number, file in frames)


def paired_entries(pairs: Sequence[Pair]) -> list[Entry]:
    """Make entries of pairs, sorted by name. Raises InputError for files of unequal size, from their headers."""
    check_pairs(pairs)
    return [Entry(pair.name, pair.blurred, pair.sharp) for pair in sorted(pairs, key=lambda pair: pair.name)]


def unpaired_entries(files: Mapping[str, ImageSource]) -> list[Entry]:
    """Make entries of blurred images alone, by name."""
    return [Entry(name, files[name]) for name in sorted(files)]


def existing_folder(folder: Path) -> Path:
    """Return the folder; InputError if it does not exist."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; check the path.")
    return folder


def scored_sizes(entries: Sequence[Entry], *, protocol: str) -> list[tuple[int, int]]:
    """Return the (height, width) for scoring of each entry, from the headers."""
    with ThreadPoolExecutor(8) as pool:
        return [scored_size(size, protocol=protocol) for size in pool.map(image_size, [entry.blurred for entry in entries])]


def fingerprint(entries: Sequence[Entry]) -> str:
    """Return a SHA-256 over the names and files of the entries: path, length and modification time, or the place in a prepared set.

    A repeated evaluation reuses its scores only for the same files. Contents are not read, which would take as long as decoding.
    """
    digest = hashlib.sha256()
    for entry in entries:
        files = [entry.blurred, entry.sharp, *(file for _, file in entry.truths), *entry.others.values()]
        digest.update("\n".join([entry.name, *entry.others, *map(_identify, files), ""]).encode())
    return digest.hexdigest()


def _identify(file: ImageSource | None) -> str:
    if not isinstance(file, Path):
        return str(file)  # None, or an image of a prepared data set, which has its own checksum
    status = file.stat()
    return f"{os.path.realpath(file)} {status.st_size} {status.st_mtime_ns}"
