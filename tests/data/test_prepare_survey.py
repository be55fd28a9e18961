"""What a download holds against what it should hold: layouts, counts, sizes, and whatever can be wrong with it."""

import downloads
import pytest

from drsn_jax.data.benchmarks import gopro, hide, koehler, lai, realblur, reds, survey_source
from drsn_jax.data.benchmarks.survey import Expected, check_complete, match_sides
from drsn_jax.data.pairs.folders import find_pairs
from drsn_jax.data.prepared.prepare import format_survey
from drsn_jax.system.errors import InputError

HD = (720, 1280)


@pytest.fixture(autouse=True)
def tiny_sets(request, monkeypatch):
    if request.node.name != "test_official_numbers":
        downloads.expect_tiny(monkeypatch)


def _refused(survey, **kwargs):
    with pytest.raises(InputError) as caught:
        check_complete(survey, **{"allow_incomplete": False, **kwargs})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _names(survey):
    return {split: [example.name for example in examples] for split, examples in survey.splits.items()}


def test_official_numbers():
    """Nah et al. 2017; Shen et al. 2019; Rim et al. 2020; Köhler et al. 2012; Lai et al. 2016; Nah et al. 2019."""
    assert {"train": Expected(22, 2103, HD), "test": Expected(11, 1111, HD)} == gopro.EXPECTED
    assert gopro.BLUR_FOLDERS == {"linear": "blur", "gamma": "blur_gamma"}
    assert {"train": Expected(None, 6397, HD), "test": Expected(None, 2025, HD)} == hide.EXPECTED
    assert {"train": Expected(182, 3758), "test": Expected(50, 980)} == realblur.EXPECTED
    assert (koehler.SCENES, koehler.TRAJECTORIES) == (4, 12)
    assert {"blurred": Expected(4, 48, (800, 800)), "truth": Expected(4, None, (800, 800))} == koehler.EXPECTED
    assert {"real": Expected(None, 100), "uniform": Expected(25, 100), "nonuniform": Expected(25, 100)} == lai.EXPECTED
    assert {"train": Expected(240, 24000, HD), "val": Expected(30, 3000, HD)} == reds.EXPECTED


LAYOUTS = {
    ("gopro", "linear"): (
        downloads.gopro_files,
        {
            "train": ["A/000000", "A/000001", "B/000000", "B/000001"],
            "validation": [f"GOPR0374_11_0{scene}/00000{frame}" for scene in (0, 1) for frame in (0, 1)],
            "test": ["T/000000", "T/000001"],
        },
    ),
    ("hide", ""): (
        downloads.hide_files,
        {"train": ["1fromGOPR1.MP4", "2fromGOPR1.MP4"], "test": ["test-close-ups/3.MP4", "test-long-shot/4.MP4"]},
    ),
    ("realblur", "j"): (
        downloads.realblur_files,
        {"train": ["scene001/1", "scene001/2", "scene003/1", "scene003/2"], "test": ["scene002/1", "scene002/2"]},
    ),
    ("koehler", ""): (
        downloads.koehler_files,
        {
            "blurred": [f"scene{s}/Blurry{s}_{t}" for s in (1, 2) for t in (1, 2)],
            "truth": [f"scene{s}/GroundTruth{s}_{t}_{f}" for s in (1, 2) for t in (1, 2) for f in (1, 2, 3)],
        },
    ),
    ("lai", "real"): (downloads.lai_files, {"test": ["x", "y"]}),
    ("lai", "uniform"): (downloads.lai_files, {"test": [f"{n}/{n}_kernel_0{k}" for n in ("a", "a_b") for k in (1, 2)]}),
    ("lai", "nonuniform"): (downloads.lai_files, {"test": [f"{n}/{n}_gyro_0{k}" for n in ("a", "a_b") for k in (1, 2)]}),
    ("reds", ""): (
        downloads.reds_files,
        {split: [f"{scene:03d}/{frame:08d}" for scene in (0, 1) for frame in (0, 1)] for split in ("train", "validation")},
    ),
}
OWN_ARCHIVES = {  # sets which come as several archives: what is in which
    "koehler": lambda name: f"GroundTruth_pngs_{name[:6]}.zip" if name.startswith("Image") else "BlurryImages.zip",
    "reds": lambda name: f"{name.split('/')[1]}.zip",
    "realblur": lambda name: "RealBlur.zip" if "/" in name else None,
}


PACKED = [(which, packed) for which in LAYOUTS for packed in ("folder", "wrapped folder", "zip")]
PACKED += [(which, "its own zips") for which in LAYOUTS if which[0] in OWN_ARCHIVES]


@pytest.mark.parametrize(("which", "packed"), PACKED)
def test_official_layouts_are_whole_without_and_within_archives(tmp_path, which, packed):
    make, names = LAYOUTS[which]
    files = make()
    if packed == "zip":
        source = downloads.write_zip(tmp_path / "set.zip", {f"GOPRO_Large/{name}": contents for name, contents in files.items()})
    elif packed == "its own zips":
        for archive in {OWN_ARCHIVES[which[0]](name) for name in files}:
            inside = {name: contents for name, contents in files.items() if OWN_ARCHIVES[which[0]](name) == archive}
            (downloads.write_zip if archive else downloads.write_folder)(tmp_path / "set" / (archive or ""), inside)
        source = tmp_path / "set"
    else:
        downloads.write_folder(tmp_path / "set" / ("inner" if packed == "wrapped folder" else ""), files)
        source = tmp_path / "set"
    survey = survey_source(which[0], source, variant=which[1])
    assert survey.problems == []
    assert survey.extra == []
    assert _names(survey) == names
    assert all(set(example.sizes) == set(example.files) for examples in survey.splits.values() for example in examples)
    check_complete(survey, allow_incomplete=False)


def test_blurred_and_sharp_are_not_mixed_up(tmp_path):
    downloads.write_folder(tmp_path, downloads.gopro_files() | downloads.hide_files())
    for config, folder in gopro.BLUR_FOLDERS.items():
        [example, *_] = survey_source("gopro", tmp_path, variant=config).splits["test"]
        assert str(example.files["blurred"]).endswith(f"test/T/{folder}/000000.png")
        assert str(example.files["sharp"]).endswith("test/T/sharp/000000.png")
    for name, files in (("hide", downloads.hide_files()), ("realblur", downloads.realblur_files()), ("lai", downloads.lai_files())):
        config = {"hide": "", "realblur": "r", "lai": "uniform"}[name]
        for examples in survey_source(name, downloads.write_folder(tmp_path / name, files), variant=config).splits.values():
            for example in examples:
                assert any(mark in str(example.files["sharp"]) for mark in ("/GT/", "/gt/gt_", "/ground_truth/"))
                assert not any(mark in str(example.files["blurred"]) for mark in ("/GT/", "/gt/gt_", "/ground_truth/"))


def test_the_longest_name_that_fits_is_the_sharp_image(tmp_path):
    survey = survey_source("lai", downloads.write_folder(tmp_path, downloads.lai_files()), variant="uniform")
    sharp = {example.name: str(example.files["sharp"]).rpartition("/")[2] for example in survey.splits["test"]}
    assert sharp == {"a/a_kernel_01": "a.png", "a/a_kernel_02": "a.png", "a_b/a_b_kernel_01": "a_b.png", "a_b/a_b_kernel_02": "a_b.png"}


def test_validation_is_cut_out_by_scene_and_said(tmp_path):
    source = downloads.write_folder(tmp_path, downloads.gopro_files())
    table = format_survey(survey_source("gopro", source, variant="linear"))
    assert "Validation: 2 of the training scenes (GOPR0374_11_00, GOPR0374_11_01)" in table
    assert "Splits: train 4, validation 4, test 2" in table
    other = survey_source("gopro", source, variant="linear", validation_scenes=("A", "B"))
    assert {name.split("/")[0] for name in _names(other)["validation"]} == {"A", "B"}
    none = survey_source("gopro", source, variant="linear", validation_scenes=())
    assert len(none.splits["train"]) == 8
    with pytest.raises(InputError, match="No training scene starts with 'C'; the scenes are A, B, GOPR0374"):
        survey_source("gopro", source, variant="linear", validation_scenes=("A", "C"))


def test_a_table_of_what_is_there(tmp_path):
    files = downloads.gopro_files() | {"notes.txt": b"x", "a.txt": b"x", "b.txt": b"x", "c.txt": b"x"}
    del files["train/B/sharp/000001.png"]
    lines = format_survey(survey_source("gopro", downloads.write_folder(tmp_path / "mine", files), variant="linear")).splitlines()
    assert lines[0] == "gopro/linear in mine"
    assert lines[2].split() == ["train", "4", "of", "4", "7", "of", "8", "40x24"]
    assert "Not as expected: train: 1 without a sharp image (B/000001)" in lines
    assert "Other files, ignored: 4 (a.txt, b.txt, c.txt, ...)" in lines


def _without(files, *starts):
    return {name: contents for name, contents in files.items() if not name.startswith(starts)}


PROBLEMS = {
    "missing scene": (_without(downloads.gopro_files(), "train/B/"), "gopro", ["train: 6 of 8 pairs", "train: 3 of 4 scenes"]),
    "missing part": (_without(downloads.gopro_files(), "test/"), "gopro", ["test: 0 of 2 pairs", "test: 0 of 1 scenes"]),
    "lonely images": (
        _without(downloads.gopro_files(), "train/A/sharp/000000", "train/A/blur/000001"),
        "gopro",
        ["train: 1 without a sharp image (A/000000)", "train: 1 without a blurred image (A/000001)"],
    ),
    "a different size": (
        downloads.gopro_files() | downloads.images("test/T/blur/000000.png", "test/T/sharp/000000.png", size=(20, 30)),
        "gopro",
        ["test: 1 not 40x24: T/000000 is 30x20"],
    ),
    "truth of another size": (
        downloads.gopro_files() | downloads.images("test/T/sharp/000000.png", size=(20, 30)),
        "gopro",
        ["test/T/blur/000000.png is 40x24, but mine/test/T/sharp/000000.png is 30x20"],
    ),
    "no image": (
        downloads.gopro_files() | {"test/T/sharp/000000.png": b"<html>", "train/A/blur/000000.png": b""},
        "gopro",
        [
            "train: 1 left out: 'mine/train/A/blur/000000.png' is empty (0 bytes)",
            "test: 1 left out: 'mine/test/T/sharp/000000.png' is not an",
        ],
    ),
    "no truth": (_without(downloads.hide_files(), "GT/3"), "hide", ["test: 1 without a sharp image (test-close-ups/3.MP4)"]),
    "no list": (
        _without(downloads.realblur_files(), "RealBlur_J_test"),
        "realblur",
        ["RealBlur_J_test_list.txt, the list of its images, is missing"],
    ),
    "listed but missing": (
        _without(downloads.realblur_files(), f"{realblur.FOLDERS['j']}/scene001/blur/blur_2"),
        "realblur",
        ["train: 3 of 4 pairs", "train: 1 files of RealBlur_J_train_list.txt are missing (RealBlur-J"],
    ),
    "no blurred image": (_without(downloads.koehler_files(), "BlurryImages/Blurry2_1"), "koehler", ["of scene_trajectory 2_1"]),
    "few frames": (
        _without(downloads.koehler_files(), "Image1/Kernel2/GroundTruth1_2_3"),
        "koehler",
        ["truth: fewer than the expected 199 or so frames of a trajectory: 1_2 has 2"],
    ),
    "no frames": (_without(downloads.koehler_files(), "Image1/Kernel2"), "koehler", ["no sharp frames of scene_trajectory 1_2"]),
    "no sharp image": (
        _without(downloads.lai_files(), "ground_truth/a.png"),
        "lai",
        ["test: 2 without a sharp image in ground_truth (a_kernel_01, a_kernel_02)"],
    ),
}
CONFIGS = {"gopro": "linear", "realblur": "j", "lai": "uniform"}


@pytest.mark.parametrize("which", PROBLEMS)
def test_what_is_missing_or_wrong_is_said_and_refused(tmp_path, which):
    files, name, expected = PROBLEMS[which]
    survey = survey_source(name, downloads.write_folder(tmp_path / "mine", files), variant=CONFIGS.get(name, ""))
    for problem in expected:
        assert any(problem in found for found in survey.problems), survey.problems
    message = _refused(survey)
    assert survey.problems[0] in message
    assert "--allow-incomplete" in message
    check_complete(survey, allow_incomplete=True)
    assert all(problem in format_survey(survey) for problem in expected)


@pytest.mark.parametrize("make", [downloads.hide_files, dict, lambda: {"readme.txt": b"x"}])
def test_another_archive_is_no_data_set_at_all(tmp_path, make):
    survey = survey_source("gopro", downloads.write_zip(tmp_path / "some.zip", make()), variant="linear")
    for allowed in (False, True):
        assert "check that it is the right archive" in _refused(survey, allow_incomplete=allowed)


def test_one_truth_a_scene_is_taken_and_labelled(tmp_path):
    files = {name: contents for name, contents in downloads.koehler_files().items() if name.startswith("Blurry")}
    files |= {f"gt_jpeg/GroundTruth{scene}.jpg": downloads.image(scene, suffix="JPEG") for scene in (1, 2)}
    survey = survey_source("koehler", downloads.write_folder(tmp_path, files))
    assert survey.problems == []
    assert survey.facts["single_truth"] is True
    assert [example.place for example in survey.splits["truth"]] == [(1, 0, 0), (2, 0, 0)]
    assert "an approximation" in format_survey(survey)
    assert survey_source("koehler", downloads.write_folder(tmp_path / "w", downloads.koehler_files())).facts["single_truth"] is False


@pytest.mark.parametrize(
    "folders", [("blur", "sharp"), ("input", "target"), ("A", "B"), ("s1/blur", "s1/sharp"), ("x/s1/blur", "x/s1/sharp")]
)
def test_own_pairs_are_those_of_find_pairs(tmp_path, folders):
    names = ["10", "9", "deep/er.v2", "2"]
    files = downloads.images(*(f"{folder}/{name}.png" for folder in folders for name in names))
    downloads.write_folder(tmp_path / "set", files | downloads.images("lone.png"))
    survey = survey_source("deblurring_pairs", tmp_path / "set", variant="mine")
    pairs = find_pairs(tmp_path / "set")
    assert _names(survey) == {"train": [pair.name for pair in pairs]}
    for example, pair in zip(survey.splits["train"], pairs, strict=True):
        assert (example.files["blurred"].where, example.files["sharp"].where) == (str(pair.blurred), str(pair.sharp))
    assert survey.extra == ["lone.png"]


def test_own_splits(tmp_path):
    names = [f"{split}/{scene}/{side}/1.png" for split in ("train", "val", "test") for scene in "ab" for side in ("blur", "sharp")]
    survey = survey_source("deblurring_pairs", downloads.write_zip(tmp_path / "a.zip", downloads.images(*names)), variant="mine")
    assert _names(survey) == {split: ["a/1", "b/1"] for split in ("train", "validation", "test")}
    empty = survey_source("deblurring_pairs", downloads.write_folder(tmp_path / "none", downloads.images("x/1.png")), variant="mine")
    assert "no folders blur + sharp" in _refused(empty)
    deep = downloads.write_folder(tmp_path / "deep", downloads.images("x/input/1.png", "x/target/1.png", "y/1.png"))
    assert "no folders blur + sharp" in _refused(survey_source("deblurring_pairs", deep, variant="mine")), "input + target is for the root"


def test_own_images_of_one_name_are_not_guessed_between(tmp_path):
    files = downloads.images("blur/1.png", "sharp/1.png") | {"blur/1.jpg": downloads.image(1, suffix="JPEG")}
    survey = survey_source("deblurring_pairs", downloads.write_folder(tmp_path / "mine", files), variant="mine")
    assert "have the same name except for the suffix" in _refused(survey)


@pytest.mark.usefixtures("unchecked")  # numbers stand in for files
def test_sides_are_matched_in_order_of_names():
    examples, problems = match_sides({"b": 1, "a": 2, "c": 3}, {"a": 4, "b": 5, "d": 6})  # type: ignore[dict-item]
    assert [(example.name, dict(example.files)) for example in examples] == [
        ("a", {"blurred": 2, "sharp": 4}),
        ("b", {"blurred": 1, "sharp": 5}),
    ]
    assert problems == ["1 without a sharp image (c)", "1 without a blurred image (d)"]
