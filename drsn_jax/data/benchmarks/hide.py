"""HIDE (Shen et al. 2019): train/NAME.png, test/{test-close-ups,test-long-shot}/NAME.png, and the sharp images GT/NAME.png."""

from drsn_jax.data.benchmarks.layout import find
from drsn_jax.data.benchmarks.survey import Expected, Survey, leftover, match_sides, take_stock
from drsn_jax.data.benchmarks.tree import Tree

ARCHIVES = ("HIDE*.zip",)
EXPECTED = {"train": Expected(None, 6397, (720, 1280)), "test": Expected(None, 2025, (720, 1280))}


def survey(tree: Tree, *, variant: str = "") -> Survey:
    """Survey the set. Names of test images include their folder, which distinguishes close-ups and long shots."""
    sharp = {match[1]: name for name, match in find(tree, r"GT/(?:[^/]+/)*([^/]+)")}
    blurred = {"train": {}, "test": {}}
    for name, match in find(tree, r"(train|test)/((?:[^/]+/)*[^/]+)"):
        if "/GT/" not in f"/{name}":
            blurred[match[1]][match[2]] = name
    parts, known = {}, []
    for part, expected in EXPECTED.items():
        there = {name: tree.files[file] for name, file in blurred[part].items()}
        truths = {name: sharp[name.rpartition("/")[2]] for name in there if name.rpartition("/")[2] in sharp}
        examples, problems = match_sides(there, {name: tree.files[file] for name, file in truths.items()})
        parts[part] = take_stock(examples, expected=expected, problems=problems)
        known += [*blurred[part].values(), *truths.values()]
    splits = {name: part.examples for name, part in parts.items()}
    return Survey("hide", "pairs", tree.name, parts, splits, leftover(tree, known), facts={"blur": "averaged frames"})
