"""RealBlur (Rim et al. 2020): RealBlur_{J,R}_{train,test}_list.txt, with a sharp and a blurred image in each line."""

import re

from drsn_jax.data.benchmarks.survey import Example, Expected, Survey, leftover, take_stock
from drsn_jax.data.benchmarks.tree import Tree, first_three

ARCHIVES = ("RealBlur*.zip",)
EXPECTED = {"train": Expected(182, 3758), "test": Expected(50, 980)}
FOLDERS = {"j": "RealBlur-J_ECC_IMCORR_centroid_itensity_ref", "r": "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"}


def survey(tree: Tree, *, variant: str) -> Survey:
    """Survey `variant` 'r' (linear, from raw) or 'j' (the camera's JPEG). The sizes of the images vary."""
    images = {name[name.index(folder) :]: name for folder in FOLDERS.values() for name in tree.files if folder in name}
    lists = {name.rpartition("/")[2]: name for name in tree.files if name.endswith("_list.txt")}
    known = [*lists.values(), *(name for key, name in images.items() if not key.startswith(FOLDERS[variant]))]
    parts = {}
    for part, expected in EXPECTED.items():
        list_name = f"RealBlur_{variant.upper()}_{part}_list.txt"
        if list_name not in lists:
            parts[part] = take_stock([], expected=expected, problems=[f"{list_name}, the list of its images, is missing"])
            continue
        examples, missing = [], []
        for line in tree.read_bytes(lists[list_name]).decode("utf-8", "replace").splitlines():
            names = [_from_folder(path) for path in line.split()[:2]]
            if len(names) == 2:
                missing += [name for name in names if name not in images]
                if all(name in images for name in names):
                    sharp, blurred = (images[name] for name in names)
                    examples.append(Example(_example_name(blurred), {"blurred": tree.files[blurred], "sharp": tree.files[sharp]}))
                    known += [sharp, blurred]
        problems = [f"{len(missing):,} files of {list_name} are missing ({first_three(missing)})"] if missing else []
        parts[part] = take_stock(sorted(examples, key=lambda example: example.name), expected=expected, problems=problems)
    splits = {name: part.examples for name, part in parts.items()}
    return Survey(f"realblur/{variant}", "pairs", tree.name, parts, splits, leftover(tree, known), facts={"blur": "real"})


def _from_folder(path: str) -> str:
    found = re.search("|".join(map(re.escape, FOLDERS.values())), path)
    return path[found.start() :] if found else path


def _example_name(blurred: str) -> str:
    """Return the name of an example: .../scene001/blur/blur_1.png -> scene001/1."""
    scene, _, file = blurred.split("/")[-3:]
    return f"{scene}/{file.rpartition('.')[0].removeprefix('blur_')}"
