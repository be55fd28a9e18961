"""Reading of prepared data sets: images that can replace a path to an image. No TensorFlow."""

import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from drsn_jax.data.pairs.folders import Pair, find_pairs
from drsn_jax.data.prepared.sets import PreparedSet, choose_split, content_hash, find_prepared, is_prepared_spec
from drsn_jax.system.errors import BadImageError, InputError


class _Records:
    """The records of one split by their number; thread-safe, opened at the first read, and again after pickling."""

    def __init__(self, folder: Path, split: str, features: Sequence[str]):
        self.folder, self.split, self.features = folder, split, features
        self._lock, self._last, self._source = threading.Lock(), threading.local(), None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Records, (self.folder, self.split, self.features)

    def read(self, number: int) -> Mapping[str, Any]:
        """Read a record. Each thread keeps its last one, because the two images of a pair are read one after the other."""
        last = getattr(self._last, "record", None)
        if last is None or last[0] != number:
            last = (number, self._open()[number])
            self._last.record = last
        return last[1]

    def _open(self) -> Any:
        with self._lock:
            if self._source is None:
                tfds = import_tfds()
                decoders = {feature: tfds.decode.SkipDecoding() for feature in self.features}
                builder = tfds.builder_from_directory(self.folder)
                self._source = builder.as_data_source(split=self.split, decoders=decoders)
            return self._source


@dataclass(frozen=True)
class StoredImage:
    """One image of a prepared data set as the bytes of its file; `size` is (height, width), or None if only the bytes contain it.

    `label` is its name in messages: `gopro/linear:test 000012 GOPR0384_11_00/000001 blurred`.
    """

    label: str
    number: int
    feature: str
    size: tuple[int, int] | None
    records: _Records = field(repr=False, compare=False)

    def read_bytes(self) -> bytes:
        """Return the encoded image. Raises `BadImageError` naming it if it cannot be read."""
        try:
            return self.records.read(self.number)[self.feature]
        except InputError:  # a missing package
            raise
        except (OSError, ValueError, RuntimeError, IndexError, KeyError) as error:
            raise BadImageError(
                f"{self} cannot be read from {self.records.folder} ({' '.join(str(error).split())[:200]}); "
                "prepare the data set again with --overwrite"
            ) from error

    def open(self, mode: str = "rb", /) -> io.BytesIO:
        """Open a binary stream of it."""
        return io.BytesIO(self.read_bytes())

    def __str__(self) -> str:
        return self.label


class Blurred(NamedTuple):
    """A blurred image without a single sharp one; scene and trajectory are Köhler's, else 0."""

    name: str
    scene: int
    trajectory: int
    image: StoredImage


@dataclass(frozen=True)
class PreparedSplit:
    """A split of a prepared data set: `pairs` if `kind` is 'pairs', `blurred` images if it is 'blurred' or 'koehler'.

    `name` is NAME[/CONFIG]:SPLIT, without the split for Köhler's benchmark, which needs both at once.
    `sha256` identifies its images, see `content_hash`.
    """

    name: str
    kind: str
    metadata: Mapping[str, Any]
    pairs: list[Pair] = field(default_factory=list)
    blurred: list[Blurred] = field(default_factory=list)
    frames: Mapping[tuple[int, int], list[tuple[int, StoredImage]]] = field(default_factory=dict, repr=False)
    sha256: str = ""

    def truths(self, scene: int, trajectory: int) -> list[tuple[int, StoredImage]]:
        """Return (number, sharp frame) along one of Köhler's trajectories, by number; the scene's only one if the set has no more.

        Raises `InputError` if there is none.
        """
        found = self.frames.get((scene, trajectory)) or self.frames.get((scene, 0))
        if not found:
            raise InputError(f"{self.name} has no sharp frames of scene {scene}, trajectory {trajectory}; prepare it from all its files")
        return found


def open_prepared(spec: str, *, data_dir: Path | None = None, default_split: str | None = None) -> PreparedSplit:
    """Open the data set NAME[/CONFIG][:SPLIT] that `drsn-jax prepare` stored in `data_dir` (default: that of tfds). Reads no image yet.

    The split may be omitted if there is only one, or if `default_split` exists; CONFIG if only one is prepared.
    Raises `InputError` for anything missing, listing the alternatives.
    """
    prepared, split = find_prepared(spec, data_dir=data_dir)
    import_tfds()  # here, so that a missing package is reported before the first image
    kind = prepared.metadata["kind"]
    if kind == "koehler":
        return _open_koehler(prepared, split)
    split = choose_split(prepared, split, default=default_split)
    name, sha256 = f"{prepared.title}:{split}", content_hash(prepared, split)
    if kind == "blurred":
        blurred = [Blurred(image_name, 0, 0, image) for image_name, image in _images(prepared, split, "image")]
        return PreparedSplit(name, kind, prepared.metadata, blurred=blurred, sha256=sha256)
    sides = _images(prepared, split, "blurred", "sharp")
    pairs = [Pair(pair_name, blurred, sharp) for pair_name, blurred, sharp in sides]
    return PreparedSplit(name, kind, prepared.metadata, pairs=pairs, sha256=sha256)


def find_pairs_or_prepared(
    root_or_spec: str | Path, *, blur_folder: str = "blur", default_split: str | None = None, data_dir: Path | None = None
) -> list[Pair]:
    """Apply `find_pairs` to an existing folder, else open the pairs of a prepared data set; its own split precedes `default_split`.

    `blur_folder` 'blur_gamma' means gopro/gamma if the configuration is omitted. Raises `InputError` as both do, and if
    the data set has no pairs.
    """
    text = str(root_or_spec)
    if not is_prepared_spec(text):
        return find_pairs(root_or_spec, blur_folder=blur_folder)
    name, colon, split = text.partition(":")
    if name == "gopro":
        text = f"gopro/{'gamma' if blur_folder == 'blur_gamma' else 'linear'}{colon}{split}"
    elif name == "gopro/linear" and blur_folder == "blur_gamma":
        raise InputError(f"{text} and blur_folder='blur_gamma' contradict each other; use gopro/gamma, or blur_folder='blur'")
    opened = open_prepared(text, data_dir=data_dir, default_split=default_split)
    if opened.kind != "pairs":
        raise InputError(f"{opened.name} holds no pairs of a blurred and a sharp image; use a data set of pairs, such as gopro")
    return opened.pairs


def import_tfds() -> Any:
    """Import tensorflow_datasets and array_record; raises `InputError` if one is not installed."""
    try:
        import array_record.python.array_record_data_source  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(f"Prepared data sets need {error.name}, which cannot be imported: pip install 'drsn-jax[data]'") from error
    return tfds


def _open_koehler(prepared: PreparedSet, split: str | None) -> PreparedSplit:
    if split not in (None, "blurred"):
        raise InputError(
            f"{prepared.title} has no split {split!r} of blurred images; use {prepared.title}, which includes their sharp frames"
        )
    choose_split(prepared, "blurred")  # raises if there is none
    places = {name: stored["places"] for name, stored in prepared.metadata["splits"].items()}
    frames: dict[tuple[int, int], list[tuple[int, StoredImage]]] = {}
    if "truth" in places:
        for (_, image), (scene, trajectory, frame) in zip(_images(prepared, "truth", "image"), places["truth"], strict=True):
            frames.setdefault((scene, trajectory), []).append((frame, image))
    images = zip(_images(prepared, "blurred", "image"), places["blurred"], strict=True)
    blurred = [Blurred(name, scene, trajectory, image) for (name, image), (scene, trajectory, _) in images]
    return PreparedSplit(
        prepared.title, "koehler", prepared.metadata, blurred=blurred, frames=frames, sha256=content_hash(prepared, *places)
    )


def _images(prepared: PreparedSet, split: str, *features: str) -> list[tuple[Any, ...]]:
    """Yield (name, image of each feature) of every example, in stored order."""
    stored = prepared.metadata["splits"][split]
    records = _Records(prepared.folder, split, features)
    found = []
    names = stored["names"] if "names" in stored else [f"{number:08d}" for number in range(stored["examples"])]
    for number, (name, size) in enumerate(zip(names, stored.get("sizes", [None] * len(names)), strict=True)):
        labels = [f"{prepared.title}:{split} {number:06d} {name} {feature}" for feature in features]
        images = [
            StoredImage(label, number, feature, size and tuple(size), records) for label, feature in zip(labels, features, strict=True)
        ]
        found.append((name, *images))
    return found
