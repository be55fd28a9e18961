"""Survey of a download against the published contents of its data set, before anything is written."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from drsn_jax.data.benchmarks.tree import Tree, TreeFile, first_three
from drsn_jax.data.images.rgb import image_size
from drsn_jax.system.errors import InputError

SIDES = ("blurred", "sharp")


class Expected(NamedTuple):
    """The published contents of a part of a data set, None if unknown: scenes, pairs or images, (height, width) of each image."""

    scenes: int | None = None
    examples: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Example:
    """A pair of images ('blurred', 'sharp') or a single 'image', with their sizes (height, width) after `take_stock` has read them.

    `place` is Köhler's (scene, trajectory, frame); 0 means none.
    """

    name: str
    files: Mapping[str, TreeFile]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    place: tuple[int, int, int] = (0, 0, 0)

    @property
    def scene(self) -> str:
        """The part of the name before the last slash."""
        return self.name.rpartition("/")[0]

    @property
    def num_bytes(self) -> int:
        """The total size of the files."""
        return sum(file.num_bytes for file in self.files.values())


@dataclass(frozen=True)
class Part:
    """One published part of a data set: its usable examples, and the problems with the others."""

    expected: Expected
    examples: Sequence[Example]
    problems: Sequence[str]

    @property
    def found(self) -> Expected:
        """The counts of the usable examples; a size if all images share it."""
        sizes = {size for example in self.examples for size in example.sizes.values()}
        return Expected(len(_scenes(self.examples)), len(self.examples), sizes.pop() if len(sizes) == 1 else None)


@dataclass(frozen=True)
class Survey:
    """The data to store: `splits`, made from the usable examples of the `parts`.

    `title` is the data set and its configuration, `kind` 'pairs', 'blurred' (no sharp images) or 'koehler', `source` the name of
    the folder or archive. `extra` are unrecognised files, `notes` lines for the table, `facts` further metadata.
    """

    title: str
    kind: str
    source: str
    parts: Mapping[str, Part]
    splits: Mapping[str, Sequence[Example]]
    extra: Sequence[str] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """The problems, one line each; none if all published contents are there."""
        return [f"{name}: {problem}" for name, part in self.parts.items() for problem in part.problems]

    @property
    def num_bytes(self) -> int:
        """The total size of the images to store."""
        return sum(example.num_bytes for examples in self.splits.values() for example in examples)


def match_sides(blurred: Mapping[str, TreeFile], sharp: Mapping[str, TreeFile]) -> tuple[list[Example], list[str]]:
    """Return the pairs with equal names, in the order of the names, and a line about images without a partner."""
    examples = [Example(name, {"blurred": blurred[name], "sharp": sharp[name]}) for name in sorted(blurred.keys() & sharp.keys())]
    problems = []
    for lonely, partner in ((blurred.keys() - sharp.keys(), "sharp"), (sharp.keys() - blurred.keys(), "blurred")):
        if lonely:
            problems.append(f"{len(lonely):,} without a {partner} image ({first_three(sorted(lonely))})")
    return examples, problems


def take_stock(examples: Sequence[Example], *, expected: Expected, problems: Iterable[str] = ()) -> Part:
    """Read the header of every image. Pairs with a damaged image or unequal sizes are excluded and reported.

    `problems` are those already known. Images are not decoded; `rgb.check_whole` does that later.
    """
    with ThreadPoolExecutor(8) as pool:
        measured = list(pool.map(_measure, examples))
    usable = [example for example, _ in measured if example]
    problems = [*problems, *_summed("left out", [problem for _, problem in measured if problem])]
    scenes, found = len(_scenes(usable)), len(usable)
    if expected.scenes is not None and scenes != expected.scenes:
        problems.insert(0, f"{scenes:,} of {expected.scenes:,} scenes")
    if expected.examples is not None and found != expected.examples:
        problems.insert(0, f"{found:,} of {expected.examples:,} {'pairs' if _paired(examples) else 'images'}")
    if expected.size is not None:
        sizes = [(example.name, size) for example in usable for size in [next(iter(example.sizes.values()))] if size != expected.size]
        problems += _summed(f"not {shown_size(expected.size)}", [f"{name} is {shown_size(size)}" for name, size in sizes])
    return Part(expected, usable, problems)


def leftover(tree: Tree, known: Iterable[str]) -> list[str]:
    """Return the files of a tree that are not among the known names, in order."""
    known = set(known)
    return [name for name in tree.files if name not in known]


def check_complete(survey: Survey, *, allow_incomplete: bool) -> None:
    """Raise `InputError` if there is nothing to prepare, or if something is missing and `allow_incomplete` is off."""
    if not any(survey.splits.values()):
        raise InputError(f"{survey.source} contains nothing of {survey.title} ({survey.problems[0]}); check that it is the right archive")
    if survey.problems and not allow_incomplete:
        more = f" (and {len(survey.problems) - 1} more, see above)" if len(survey.problems) > 1 else ""
        raise InputError(
            f"{survey.source} is not the complete {survey.title}: {survey.problems[0]}{more}; "
            "complete it, or prepare its usable part with --allow-incomplete"
        )


def shown_size(size: tuple[int, int]) -> str:
    """Format (height, width) with the width first."""
    return f"{size[1]}x{size[0]}"


def _measure(example: Example) -> tuple[Example | None, str]:
    sizes = {}
    for side, file in example.files.items():
        try:
            sizes[side] = image_size(file)
        except InputError as error:
            return None, str(error)
    if len(set(sizes.values())) > 1:
        blurred, sharp = (f"{example.files[side]} is {shown_size(sizes[side])}" for side in SIDES)
        return None, f"{blurred}, but {sharp}"
    return Example(example.name, example.files, sizes, example.place), ""


def _summed(what: str, problems: Sequence[str]) -> list[str]:
    return [f"{len(problems):,} {what}: {problems[0]}{', ...' if len(problems) > 1 else ''}"] if problems else []


def _scenes(examples: Iterable[Example]) -> set[str]:
    return {example.scene for example in examples if example.scene}


def _paired(examples: Sequence[Example]) -> bool:
    return not examples or "sharp" in examples[0].files
