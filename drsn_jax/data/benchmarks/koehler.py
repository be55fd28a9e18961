"""Köhler et al. 2012: Blurry{S}_{T}.png, and the sharp frames along each trajectory, Image{S}/Kernel{T}/GroundTruth{S}_{T}_{F}.png.

A single GroundTruth{S} per scene is accepted too, and labelled as an approximation of the benchmark (SPEC.md section 3).
"""

from drsn_jax.data.benchmarks.layout import find
from drsn_jax.data.benchmarks.survey import Example, Expected, Survey, leftover, take_stock
from drsn_jax.data.benchmarks.tree import Tree, first_three

ARCHIVES = ("BlurryImages*.zip", "GroundTruth*.zip")
SCENES, TRAJECTORIES = 4, 12
EXPECTED = {"blurred": Expected(SCENES, SCENES * TRAJECTORIES, (800, 800)), "truth": Expected(SCENES, None, (800, 800))}
LEAST_TRUTHS = 150  # a trajectory has about 199 frames


def survey(tree: Tree, *, variant: str = "") -> Survey:
    """Survey the splits 'blurred' (48 images) and 'truth', one example per frame: a whole trajectory is too large for one record."""
    known, blurred, truth, single = [], [], [], []
    kinds = ((r"Blurry(\d+)_(\d+)", blurred), (r"GroundTruth(\d+)_(\d+)_(\d+)", truth), (r"GroundTruth(\d+)", single))
    for pattern, examples in kinds:
        for name, match in find(tree, pattern):
            scene, trajectory, frame = (int(number) for number in (*match.groups(), 0, 0)[:3])
            stem = name.rpartition("/")[2].rpartition(".")[0]
            example = Example(f"scene{scene}/{stem}", {"image": tree.files[name]}, place=(scene, trajectory, frame))
            examples.append(example)
            known.append(name)
    wanted = {(scene + 1, trajectory + 1) for scene in range(SCENES) for trajectory in range(TRAJECTORIES)}
    problems = _missing("blurred images", wanted - {example.place[:2] for example in blurred})
    parts = {"blurred": take_stock(_in_order(blurred), expected=EXPECTED["blurred"], problems=problems)}
    truths, problems = (truth, _short(truth, wanted)) if truth or not single else (single, [])
    parts["truth"] = take_stock(_in_order(truths), expected=EXPECTED["truth"], problems=problems)
    notes = ["Ground truth: one image per scene, an approximation of the benchmark"] if truths is single else []
    facts = {"blur": "recorded trajectories, played back", "single_truth": truths is single}
    splits = {name: part.examples for name, part in parts.items()}
    return Survey("koehler", "koehler", tree.name, parts, splits, leftover(tree, known), notes, facts)


def _in_order(examples: list[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: example.place)


def _missing(what: str, places: set[tuple[int, ...]]) -> list[str]:
    names = [f"{scene}_{trajectory}" for scene, trajectory in sorted(places)]
    return [f"no {what} of scene_trajectory {first_three(names)}"] if names else []


def _short(truths: list[Example], wanted: set[tuple[int, int]]) -> list[str]:
    counts = dict.fromkeys(wanted, 0)
    for example in truths:
        counts[example.place[:2]] = counts.get(example.place[:2], 0) + 1
    few = [f"{place[0]}_{place[1]} has {count}" for place, count in sorted(counts.items()) if 0 < count < LEAST_TRUTHS]
    problems = _missing("sharp frames", {place for place, count in counts.items() if not count})
    return problems + ([f"fewer than the expected 199 or so frames of a trajectory: {first_three(few)}"] if few else [])
