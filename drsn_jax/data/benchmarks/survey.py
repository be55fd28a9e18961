"""Survey of a download against the known contents of its data set, before anything is written."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from drsn_jax.data.benchmarks.tree import Tree, TreeFile, first_three
from drsn_jax.data.images.rgb import image_size
from drsn_jax.system.errors import InputError

SIDES = ("blurred", "sharp")


class Expected(NamedTuple):
    """What a part of a data set holds, None where that is not known: scenes, pairs or images, (height, width) of each image."""

    scenes: int | None = None
    examples: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Example:
    """A pair of images ('blurred', 'sharp') or an 'image' alone, with their sizes (height, width) once `take_stock` has read them.

    `place` is Köhler's (scene, trajectory, frame), of which 0 stands for none.
    """

    name: str
    files: Mapping[str, TreeFile]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    place: tuple[int, int, int] = (0, 0, 0)

    @property
    def scene(self) -> str:
        """What stands before the last slash of the name."""
        return self.name.rpartition("/")[0]

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.num_bytes for file in self.files.values())


@dataclass(frozen=True)
class Part:
    """One part of a data set as its makers split it: what is there and can be used, and what is wrong with the rest."""

    expected: Expected
    examples: Sequence[Example]
    problems: Sequence[str]

    @property
    def found(self) -> Expected:
        """Counted in the usable examples; a size where all images have the same."""
        sizes = {size for example in self.examples for size in example.sizes.values()}
        return Expected(len(_scenes(self.examples)), len(self.examples), sizes.pop() if len(sizes) == 1 else None)


@dataclass(frozen=True)
class Survey:
    """What is to be stored: `splits`, made of the usable examples of the `parts`.

    `title` is the data set and its configuration, `kind` 'pairs', 'blurred' (no sharp images) or 'koehler', `source` the name of
    the folder or archive. `extra` are files that belong to nothing, `notes` lines for the table, `facts` more for the metadata.
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
        """Each in one line; none where everything that is known of the data set is there."""
        return [f"{name}: {problem}" for name, part in self.parts.items() for problem in part.problems]

    @property
    def num_bytes(self) -> int:
        """Of all images that are to be stored."""
        return sum(example.num_bytes for examples in self.splits.values() for example in examples)


def match_sides(blurred: Mapping[str, TreeFile], sharp: Mapping[str, TreeFile]) -> tuple[list[Example], list[str]]:
    """The pairs of equal names, in order of these, and what lacks its partner."""
    examples = [Example(name, {"blurred": blurred[name], "sharp": sharp[name]}) for name in sorted(blurred.keys() & sharp.keys())]
    problems = []
    for lonely, partner in ((blurred.keys() - sharp.keys(), "sharp"), (sharp.keys() - blurred.keys(), "blurred")):
        if lonely:
            problems.append(f"{len(lonely):,} without a {partner} image ({first_three(sorted(lonely))})")
    return examples, problems


def take_stock(examples: Sequence[Example], *, expected: Expected, problems: Iterable[str] = ()) -> Part:
    """Reads the header of every image. Left out, and told about: pairs with a damaged image, and such of unequal sizes.

    `problems` are those known already. Images are not decoded, see `frames.check_whole`.
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
    """The files of a tree that are not among the known names, in order."""
    known = set(known)
    return [name for name in tree.files if name not in known]


def check_complete(survey: Survey, *, allow_incomplete: bool) -> None:
    """Raises `InputError`, in one line, where nothing can be prepared, or something is missing and that is not allowed."""
    if not any(survey.splits.values()):
        raise InputError(f"{survey.source} holds nothing of {survey.title} ({survey.problems[0]}); is it the archive of another data set?")
    if survey.problems and not allow_incomplete:
        more = f" (and {len(survey.problems) - 1} more, see above)" if len(survey.problems) > 1 else ""
        raise InputError(
            f"{survey.source} is not the whole of {survey.title}: {survey.problems[0]}{more}; "
            "complete it, or prepare what is there with --allow-incomplete"
        )


def shown_size(size: tuple[int, int]) -> str:
    """(height, width) as people write it, width first."""
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
