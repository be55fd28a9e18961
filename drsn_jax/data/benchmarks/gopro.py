"""GoPro (Nah et al. 2017), GOPRO_Large: {train,test}/<scene>/{blur,blur_gamma,sharp}/NNNNNN.png."""

from collections.abc import Sequence

from drsn_jax.data.benchmarks.layout import find
from drsn_jax.data.benchmarks.survey import Expected, Survey, leftover, match_sides, take_stock
from drsn_jax.data.benchmarks.tree import Tree
from drsn_jax.system.errors import InputError

ARCHIVES = ("GOPRO_Large.zip",)
EXPECTED = {"train": Expected(22, 2103, (720, 1280)), "test": Expected(11, 1111, (720, 1280))}
BLUR_FOLDERS = {"linear": "blur", "gamma": "blur_gamma"}
# One recording was cut into several scenes. Validating on a recording that is also in the training data would flatter the model.
VALIDATION_SCENES = ("GOPR0374_",)


def survey(tree: Tree, *, variant: str, validation_scenes: Sequence[str] = VALIDATION_SCENES) -> Survey:
    """Survey `variant` 'linear' or 'gamma'. Training scenes with a name prefix in `validation_scenes` form the validation split.

    Raises `InputError` for a prefix without a training scene.
    """
    blur_folder, known = BLUR_FOLDERS[variant], []
    sides = {(part, side): {} for part in EXPECTED for side in (blur_folder, "sharp")}
    for name, match in find(tree, r"(train|test)/([^/]+)/(blur|blur_gamma|sharp)/([^/]+)"):
        part, scene, side, frame = match.groups()
        known.append(name)
        if (part, side) in sides:
            sides[part, side][f"{scene}/{frame}"] = tree.files[name]
    parts = {}
    for part, expected in EXPECTED.items():
        examples, problems = match_sides(sides[part, blur_folder], sides[part, "sharp"])
        parts[part] = take_stock(examples, expected=expected, problems=problems)
    training = parts["train"].examples
    held = [example for example in training if example.scene.startswith(tuple(validation_scenes))]
    scenes = sorted({example.scene for example in held})
    _check_prefixes(validation_scenes, sorted({example.scene for example in training}))
    splits = {"train": [e for e in training if e.scene not in scenes], "validation": held, "test": parts["test"].examples}
    notes = [f"Validation: {len(scenes)} of the training scenes ({', '.join(scenes)})"] if scenes else ["Validation: no scene"]
    facts = {"blur": variant, "validation_scenes": scenes}
    return Survey(f"gopro/{variant}", "pairs", tree.name, parts, splits, leftover(tree, known), notes, facts)


def _check_prefixes(prefixes: Sequence[str], scenes: Sequence[str]) -> None:
    for prefix in prefixes if tuple(prefixes) != VALIDATION_SCENES else ():
        if scenes and (not prefix or not any(scene.startswith(prefix) for scene in scenes)):
            raise InputError(
                f"No training scene starts with {prefix!r}; the scenes are {', '.join(scenes)} (--validation-scenes=PREFIX,...)"
            )
