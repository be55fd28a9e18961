"""The user's own pairs in the layouts of `drsn_jax.data.pairs.folders.find_pairs`, optionally in folders train, val and test."""

from drsn_jax.data.benchmarks.layout import find
from drsn_jax.data.benchmarks.survey import Expected, Survey, leftover, match_sides, take_stock
from drsn_jax.data.benchmarks.tree import Tree, TreeFile

ARCHIVES = ()
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_SIDES = {"blur": "blurred", "sharp": "sharp"}
_TOP_SIDES = {"input": "blurred", "target": "sharp", "A": "blurred", "B": "sharp"}  # only directly in the root


def survey(tree: Tree, *, variant: str) -> Survey:
    """Survey a set called `variant`. Images outside the folders of splits form the split 'train'."""
    images = [name for name, _ in find(tree, r"[^/]+")]
    tops = {name.split("/")[0] for name in images} & SPLITS.keys()
    sides: dict[str, dict[str, dict[str, TreeFile]]] = {}
    known, twice = [], []
    for image in images:
        top = image.split("/")[0]
        split, inner = (SPLITS[top], image.removeprefix(f"{top}/")) if top in tops else ("train", image)
        if place := _place(inner):
            side, name = place
            files = sides.setdefault(split, {"blurred": {}, "sharp": {}})[side]
            known.append(image)
            if files.setdefault(name, tree.files[image]) is not tree.files[image]:
                twice.append(f"{files[name]} and {tree.files[image]} have the same name except for the suffix")
    parts = {}
    for split in [name for name in ("train", "validation", "test") if name in sides] or ["train"]:
        examples, problems = match_sides(**sides.get(split, {"blurred": {}, "sharp": {}}))
        problems += ["no pair: no folders blur + sharp, input + target or A + B with images"] * (not examples)
        parts[split] = take_stock(examples, expected=Expected(), problems=problems + twice)
        twice = []
    splits = {name: part.examples for name, part in parts.items()}
    title = f"deblurring_pairs/{variant}"
    return Survey(title, "pairs", tree.name, parts, splits, leftover(tree, known), facts={"blur": "unknown", "unsplit": not tops})


def _place(image: str) -> tuple[str, str] | None:
    """Return (side, name without that folder and the suffix); a scene is at most two levels down."""
    *folders, file = image.split("/")
    for level, folder in enumerate(folders[:3]):
        side = _SIDES.get(folder) or (_TOP_SIDES.get(folder) if level == 0 else None)
        if side:
            name = "/".join([*folders[:level], *folders[level + 1 :], file])
            return side, name.rpartition(".")[0]
    return None
