"""Every protocol by the command line, on folders: Köhler's trajectories, RealBlur, images without truth, detection, the sweep."""

import csv
import json
import shutil

import numpy as np
import pytest
import tiny
import tiny_detector
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.data.images.listing import name_images
from drsn_jax.data.pairs.folders import find_pairs
from drsn_jax.evaluation.benchmark import open_folder_benchmark
from drsn_jax.evaluation.scoring.entries import paired_entries, scored_sizes
from drsn_jax.evaluation.scoring.koehler_entries import find_koehler_truths, koehler_entries
from drsn_jax.system.errors import InputError

NOTE = "A trajectory of the benchmark has about 199 frames; here an image was compared with 5 to 5."
SIDE = 192  # five scales need 176


@pytest.fixture
def model(tmp_path_factory, photograph):
    return tiny.trained(tmp_path_factory, photograph)


@pytest.fixture
def gopro(tmp_path, photograph):
    return tiny.write_gopro(tmp_path / "gopro", photograph)


@pytest.fixture
def koehler(tmp_path, photograph):
    """Two scenes of two trajectories with five frames each, whose mean is the blurred image. Scene 1, trajectory 3 has frame 30."""
    for scene, trajectory in ((1, 1), (1, 3), (2, 1), (2, 2)):
        frames = [
            photograph[20 + scene * 30 : 20 + scene * 30 + SIDE, 100 + k * trajectory : 100 + k * trajectory + SIDE] for k in range(5)
        ]
        place = tmp_path / "truth" / f"Image{scene}" / f"Kernel{trajectory}"
        place.mkdir(parents=True)
        for k, frame in enumerate(frames):
            Image.fromarray(frame).save(place / f"GroundTruth{scene}_{trajectory}_{k + 1}.png")
        mean = np.rint(np.mean(frames, axis=0)).astype(np.uint8)
        (tmp_path / "blurry").mkdir(exist_ok=True)
        Image.fromarray(mean).save(tmp_path / "blurry" / f"Blurry{scene}_{trajectory}.png")
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "truth/Image1/Kernel3/GroundTruth1_3_30.png")
    return tmp_path / "blurry", tmp_path / "truth"


def evaluate(model, output, *arguments):
    assert main(["evaluate", f"--model={model}", f"--output={output}", *map(str, arguments)]) == 0
    return json.loads((output / "metrics.json").read_text())


def test_koehler_by_trajectory(model, koehler, tmp_path, capsys):
    blurred, truth = koehler
    summary = evaluate(model, tmp_path / "out", f"--blurred={blurred}", f"--sharp={truth}", "--protocol=koehler", "--panels=1")
    assert [image["name"] for image in summary["per_image"]] == ["Blurry1_1", "Blurry1_3", "Blurry2_1", "Blurry2_2"]
    assert set(summary["input"]) == {"psnr", "ms_ssim", "psnr_unaligned", "frames"}
    assert summary["input"]["frames"] == 5
    assert summary["notes"] == ["The benchmark has 48 images; these are 4 of them.", NOTE]
    values = {image["name"]: image["scores"]["input"]["psnr"] for image in summary["per_image"]}
    assert values["Blurry1_1"] > values["Blurry1_3"], "the longer trajectory is blurred more"
    assert "Köhler" in summary["metrics"][0]["words"]
    assert "approximation" not in summary["metrics"][0]["words"]
    assert "by trajectory: restored" in (tmp_path / "out" / "report.md").read_text()
    out = capsys.readouterr().out
    assert "koehler protocol" in out
    assert NOTE in out
    assert NOTE in (tmp_path / "out" / "report.html").read_text()


def test_the_skipped_frame_is_never_read(koehler):
    entries = {entry.name: entry for entry in koehler_entries(name_images(koehler[0]), find_koehler_truths(koehler[1]))}
    assert [number for number, _ in entries["Blurry1_3"].truths] == [1, 2, 3, 4, 5]
    assert entries["Blurry1_1"].sharp.name == "GroundTruth1_1_3.png", "a panel shows the middle of the path"


def test_one_truth_a_scene_is_called_an_approximation(model, koehler, tmp_path, capsys):
    blurred, truth = koehler
    (tmp_path / "gt").mkdir()
    for scene in (1, 2):
        Image.open(truth / f"Image{scene}/Kernel1/GroundTruth{scene}_1_3.png").save(tmp_path / "gt" / f"GroundTruth{scene}.png")
    summary = evaluate(model, tmp_path / "out", f"--blurred={blurred}", f"--sharp={tmp_path / 'gt'}", "--protocol=koehler", "--panels=0")
    assert (summary["protocol"], summary["images"]) == ("koehler_single", 4)
    assert "single-GT approximation" in summary["protocol_in_words"]
    assert "koehler_single protocol" in capsys.readouterr().out
    (tmp_path / "gt" / "GroundTruth1.png").rename(truth / "GroundTruth1.png")
    with pytest.raises(InputError, match="both kinds"):
        find_koehler_truths(truth)
    with pytest.raises(InputError, match="it contains none"):
        find_koehler_truths(blurred)


def test_koehlers_noise_sweep(model, koehler, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the curve is drawn by matplotlib (pip install 'drsn-jax[plot]')")
    arguments = (f"--blurred={koehler[0]}", f"--sharp={koehler[1]}", "--protocol=koehler", "--noise-sweep", "--panels=0")
    summary = evaluate(model, tmp_path / "out", *arguments)
    psnrs = [run["input"]["psnr"] for run in summary["runs"]]
    assert len(psnrs) == 5
    assert psnrs == sorted(psnrs, reverse=True)
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_realblur_counts_what_both_images_show(model, gopro, tmp_path):
    pytest.importorskip("cv2", reason="OpenCV aligns (pip install 'drsn-jax[realblur]')")
    summary = evaluate(model, tmp_path / "out", f"--blurred={gopro}", f"--sharp={gopro}", "--protocol=realblur", "--panels=0")
    assert set(summary["input"]) == {"psnr", "ssim_gaussian", "aligned"}
    assert "ECC" in (tmp_path / "out" / "report.html").read_text()


def test_images_without_truth_get_scores_that_need_none(model, gopro, tmp_path):
    pytest.importorskip("pywt", reason="the noise estimate needs PyWavelets (pip install 'drsn-jax[noreference]')")
    summary = evaluate(model, tmp_path / "out", f"--blurred={gopro}", "--panels=1")
    assert (summary["protocol"], summary["worse"], summary["sharp"]) == ("noreference", None, None)
    assert set(summary["input"]) == {"blur_effect", "noise_sigma"}
    by_name = {image["name"]: image["scores"]["input"]["blur_effect"] for image in summary["per_image"]}
    blurred = [value for name, value in by_name.items() if "/blur/" in name]
    assert len(by_name) == 2 * len(blurred), "of a folder without --sharp every image counts"
    with Image.open(tmp_path / "out" / summary["panels"][0]) as panel:
        assert panel.width < 2.5 * tiny.SIZE[0], "blurred and restored alone"
    assert "change" in (tmp_path / "out" / "report.md").read_text()


def test_a_detector_counts_objects_in_every_version(model, gopro, tmp_path):
    pytest.importorskip("onnxruntime", reason="detectors are run by onnxruntime (pip install 'drsn-jax[detection]')")
    rows = tiny_detector.yolox_rows([(20, 20, 24, 24, 0, 0.9)], size=(64, 64), classes=80)
    detector = tiny_detector.write_constant(tmp_path / "detector.onnx", rows, shape=[1, 3, 64, 64])
    arguments = (f"--blurred={gopro}", f"--sharp={gopro}", f"--compare=theirs={gopro}/../theirs", f"--detector={detector}", "--panels=1")
    for pair in find_pairs(gopro):
        path = tmp_path / "theirs" / f"{pair.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pair.blurred.read_bytes())
    summary = evaluate(model, tmp_path / "out", *arguments)
    assert set(summary["detection"]["versions"]) == {"input", "restored", "theirs", "sharp"}
    assert summary["detection"]["versions"]["restored"]["recall"] == 1, "this detector finds the same everywhere"
    assert [path.rsplit(".", 2)[1] for path in summary["panels"]] == [summary["panels"][0].rsplit(".", 2)[1], "detections"]
    assert "detector.onnx" in (tmp_path / "out" / "report.md").read_text()


def test_params_and_gmacs_stand_in_the_report(model, gopro, tmp_path):
    summary = evaluate(model, tmp_path / "out", f"--blurred={gopro}", f"--sharp={gopro}", "--panels=0")
    counts = summary["model"]
    assert counts["parameters_both"] == counts["parameters"] + counts["parameters_critic"]
    assert counts["gmacs_256x256"] > 0
    assert f"{counts['parameters_both']:,} in both" in (tmp_path / "out" / "report.html").read_text()
    assert "ms_ssim" not in summary["input"], "64x48 is too small for five scales"


def test_five_scales_are_left_out_where_the_smallest_image_has_no_room(koehler, tmp_path):
    for name in ("blur", "sharp"):
        shutil.copytree(koehler[1] / "Image1" / "Kernel1", tmp_path / "pairs" / name)
    truth = tmp_path / "pairs"
    options: dict = {"blur_folder": "blur"}
    benchmarks = {protocol: open_folder_benchmark(truth, truth, protocol=protocol, **options) for protocol in ("full", "half")}
    names = {protocol: [metric.name for metric in benchmark.scorer.metrics] for protocol, benchmark in benchmarks.items()}
    assert "ms_ssim" in names["full"]
    assert "ms_ssim" not in names["half"]


def test_the_scored_size_follows_the_protocol(gopro):
    entries = paired_entries(find_pairs(gopro))
    assert [set(scored_sizes(entries, protocol=p)) for p in ("full", "half", "resize256")] == [{(48, 64)}, {(24, 32)}, {(256, 256)}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol=koehler"], "GroundTruth"),
        (["--protocol=noreference"], "takes no sharp images"),
        (["--protocol=realblur", "--lpips"], "omit --lpips"),
        (["--protocol=realblur", "--aligned"], "omit --aligned"),
        (["--noise-variance=-0.1"], "variance"),
        (["--noise-sweep", "--noise-variance=0.1"], "omit --noise-variance"),
        (["--zoom-box=1,2,3"], "TOP,LEFT,HEIGHT,WIDTH"),
        (["--zoom-box=40,2,30,30"], "does not lie inside"),
        (["--compare", "input=there"], "the name 'input' is taken"),
        (["--compare", "there"], "There is no folder there"),
        (["--detector=there.onnx"], "there.onnx"),
        (["--data=gopro:test"], "either --data"),
        (["--protocol=quarter"], "choose one of full, half"),
        (["--data-dir=sets"], "--data-dir has no effect with --blurred"),
        (["--noise-variance=0.01", "--compare", "theirs=."], "noise_0.01"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, model, gopro, tmp_path, capsys):
    verb = ["evaluate", f"--model={model}", f"--blurred={gopro}", f"--sharp={gopro}", f"--output={tmp_path / 'out'}"]
    assert main([*verb, *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_the_data_must_be_given_once(model, gopro, tmp_path, capsys):
    verb = ["evaluate", f"--model={model}", f"--output={tmp_path / 'out'}"]
    for arguments, message in (
        ([], "Give the images"),
        ([f"--blurred={gopro}", "--protocol=full"], "compares with sharp images"),
        (["--data=gopro:test", f"--sharp={gopro}"], "--sharp has no effect with --data"),
        (["--data=gopro:test", "--blur-folder=blur"], "--blur-folder has no effect with --data"),
        ([f"--blurred={tmp_path / 'nowhere'}"], "There is no folder"),
    ):
        assert main([*verb, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_sweep_of_pairs_has_one_row_a_variance_and_other_methods_at_each(model, gopro, tmp_path):
    pytest.importorskip("matplotlib", reason="the curve is drawn by matplotlib (pip install 'drsn-jax[plot]')")
    others = (f"--write-inputs={tmp_path / 'inputs'}", "--compare", f"nothing={tmp_path / 'inputs'}")
    (tmp_path / "inputs").mkdir()
    summary = evaluate(model, tmp_path / "out", f"--blurred={gopro}", f"--sharp={gopro}", "--noise-sweep", "--panels=1", *others)
    assert all(run["compared"]["nothing"] == run["input"] for run in summary["runs"])
    rows = list(csv.DictReader((tmp_path / "out" / "sweep.csv").open(newline="")))
    assert [row["noise_variance"] for row in rows] == ["0", "0.0005", "0.001", "0.005", "0.01"]
