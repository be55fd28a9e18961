"""REDS (Nah et al. 2019), motion blur: {train,val}/{train,val}_{blur,sharp}/NNN/NNNNNNNN.png."""

from drsn_jax.data.benchmarks.layout import find
from drsn_jax.data.benchmarks.survey import Expected, Survey, leftover, match_sides, take_stock
from drsn_jax.data.benchmarks.tree import Tree

ARCHIVES = ("train_blur.zip", "train_sharp.zip", "val_blur.zip", "val_sharp.zip")
EXPECTED = {"train": Expected(240, 24000, (720, 1280)), "val": Expected(30, 3000, (720, 1280))}
_SPLITS = {"train": "train", "val": "validation"}


def survey(tree: Tree, *, variant: str = "") -> Survey:
    """Survey the splits 'train' and 'validation'; the test set's sharp images are not public."""
    known = []
    sides = {(part, side): {} for part in EXPECTED for side in ("blur", "sharp")}
    for name, match in find(tree, r"(train|val)_(blur|sharp)/(\d+)/(\d+)"):
        part, side, scene, frame = match.groups()
        known.append(name)
        sides[part, side][f"{scene}/{frame}"] = tree.files[name]
    parts = {}
    for part, expected in EXPECTED.items():
        examples, problems = match_sides(sides[part, "blur"], sides[part, "sharp"])
        parts[part] = take_stock(examples, expected=expected, problems=problems)
    splits = {_SPLITS[name]: part.examples for name, part in parts.items()}
    return Survey("reds", "pairs", tree.name, parts, splits, leftover(tree, known), facts={"blur": "averaged frames"})
