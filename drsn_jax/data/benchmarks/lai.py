"""Lai et al. 2016: 100 real photographs; 25 sharp images blurred by 4 kernels (uniform) or 4 camera motions (nonuniform).

Sharp images are ground_truth/NAME.png, blurred ones NAME_kernel_0K.png and NAME_gyro_0K.png.
"""

from drsn_jax.data.benchmarks.layout import find
from drsn_jax.data.benchmarks.survey import Example, Expected, Part, Survey, leftover, take_stock
from drsn_jax.data.benchmarks.tree import Tree, first_three

ARCHIVES = ("*real*.zip", "*uniform*.zip", "*synthetic*.zip", "*ground_truth*.zip")
EXPECTED = {"real": Expected(None, 100), "uniform": Expected(25, 100), "nonuniform": Expected(25, 100)}
_MARKS = {"uniform": "_kernel_", "nonuniform": "_gyro_"}


def survey(tree: Tree, *, variant: str) -> Survey:
    """Survey `variant` 'real' (no sharp images), 'uniform' or 'nonuniform'; the split is 'test'."""
    images = {name: match[1] for name, match in find(tree, r"([^/]+)")}
    truths = {stem: name for name, stem in images.items() if "ground_truth" in name.lower().split("/")[:-1]}
    by_part = {part: [name for name, stem in images.items() if mark in stem] for part, mark in _MARKS.items()}
    synthetic = {*by_part["uniform"], *by_part["nonuniform"], *truths.values()}
    rest = [name for name in images if name not in synthetic]
    by_part["real"] = [name for name in rest if "real" in name.lower().split("/")[:-1]] or rest
    if variant == "real":
        examples = [Example(images[name], {"image": tree.files[name]}) for name in by_part["real"]]
        part, kind = take_stock(sorted(examples, key=lambda example: example.name), expected=EXPECTED[variant]), "blurred"
    else:
        part, kind = _synthetic(tree, {images[name]: name for name in by_part[variant]}, truths, EXPECTED[variant]), "pairs"
    known = [name for names in (synthetic, by_part["real"]) for name in names]
    facts = {"blur": {"real": "real", "uniform": "kernels", "nonuniform": "camera motions"}[variant]}
    return Survey(f"lai/{variant}", kind, tree.name, {"test": part}, {"test": part.examples}, leftover(tree, known), facts=facts)


def _synthetic(tree: Tree, blurred: dict[str, str], truths: dict[str, str], expected: Expected) -> Part:
    examples, lonely = [], []
    for stem, name in sorted(blurred.items()):
        # Take the longest sharp name that is a prefix of the blurred one: 'people_01' also starts with 'people_0'.
        truth = max((known for known in truths if stem.startswith(known)), key=len, default=None)
        if truth is None:
            lonely.append(stem)
        else:
            files = {"blurred": tree.files[name], "sharp": tree.files[truths[truth]]}
            examples.append(Example(f"{truth}/{stem}", files))
    problems = [f"{len(lonely):,} without a sharp image in ground_truth ({first_three(lonely)})"] if lonely else []
    return take_stock(sorted(examples, key=lambda example: example.name), expected=expected, problems=problems)
