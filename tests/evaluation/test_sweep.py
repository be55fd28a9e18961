"""The noise sweep: every variance once, in its own folder, then one table and one curve."""

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from drsn_jax.evaluation.evaluate import evaluate
from drsn_jax.evaluation.scoring.entries import Entry
from drsn_jax.evaluation.sweep import NOISE_VARIANCES, format_sweep, sweep_noise
from drsn_jax.system.errors import InputError

pytest.importorskip("matplotlib", reason="the curve is drawn by matplotlib (pip install 'drsn-jax[plot]')")


def smooth(image):
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.0)))


@pytest.fixture
def entries(photograph, tmp_path):
    made = []
    for i in range(2):
        sharp = Image.fromarray(photograph[100:196, 120 * i : 120 * i + 128])
        for kind, image in (("blur", sharp.filter(ImageFilter.GaussianBlur(0.8))), ("sharp", sharp)):
            image.save(tmp_path / f"{kind}{i}.png")
        made.append(Entry(str(i), tmp_path / f"blur{i}.png", tmp_path / f"sharp{i}.png"))
    return made


def sweep(entries, output, *, restore_fn=smooth, variances=(0.0, 0.001, 0.005), overwrite=False):
    arguments = {"restore_fn": restore_fn, "model_info": {"path": "blur", "sha256": "1"}, "max_panels": 1, "overwrite": overwrite}

    def run(variance, folder):
        return evaluate(entries, output=folder, noise_variance=variance, **arguments)

    return sweep_noise(run, variances=variances, output=output, overwrite=overwrite, command="drsn-jax evaluate --noise-sweep")


def test_one_table_and_one_curve_of_all_variances(entries, tmp_path):
    output = tmp_path / "sweep"
    summary = sweep(entries, output)
    assert summary == json.loads((output / "metrics.json").read_text())
    assert [row["noise_variance"] for row in summary["runs"]] == [0, 0.001, 0.005]
    inputs = [row["input"]["psnr"] for row in summary["runs"]]
    assert inputs == sorted(inputs, reverse=True), "noise lowers the input's PSNR"
    gains = [row["gain"]["psnr"] for row in summary["runs"]]
    assert gains[0] < 0 < gains[2], "smoothing harms a clean image and helps a noisy one"
    for row in summary["runs"]:
        alone = json.loads((output / row["folder"] / "metrics.json").read_text())
        assert (alone["noise_variance"], alone["restored"]) == (row["noise_variance"], row["restored"])
    rows = list(csv.DictReader((output / "sweep.csv").open(newline="")))
    assert [float(row["input_psnr"]) for row in rows] == pytest.approx(inputs, abs=1e-5)
    page = (output / "report.html").read_text()
    for text in ('href="noise_0.005/report.html"', "data:image/jpeg", f"{gains[2]:+.2f}", "Noise sweep", "drsn-jax evaluate --noise-sweep"):
        assert text in page
    lines = format_sweep(summary).splitlines()
    assert len(lines) == 5
    assert lines[4].split()[:2] == ["0.005", f"{inputs[2]:.2f}"]


def test_the_curve_shows_all_versions(entries, tmp_path):
    sweep(entries, tmp_path / "sweep")
    with Image.open(tmp_path / "sweep" / "curve.png") as curve:
        colours = np.asarray(curve.convert("RGB")).reshape(-1, 3).astype(int)
    saturated = colours[np.ptp(colours, axis=1) > 100]
    blue, orange = (saturated[:, 2] > saturated[:, 0]).sum(), (saturated[:, 0] > saturated[:, 2]).sum()
    assert min(blue, orange) > 300, "two lines in two colours"


def test_what_was_finished_is_not_restored_again(entries, tmp_path):
    def fail_on_noise(image):
        if image.std() > 0 and len(calls) >= 2:
            raise RuntimeError("power cut")
        calls.append(1)
        return smooth(image)

    calls = []
    with pytest.raises(RuntimeError, match="power cut"):
        sweep(entries, tmp_path / "sweep", restore_fn=fail_on_noise)
    again = []
    sweep(entries, tmp_path / "sweep", restore_fn=lambda image: again.append(1) or smooth(image))
    assert len(again) == 4, "two images at the two variances that were missing"


@pytest.mark.parametrize(("variances", "message"), [((0.0, -0.1), "variance"), ((0.001, 0.001), "twice")])
def test_impossible_sweeps_are_told_before_anything_is_restored(variances, message, entries, tmp_path):
    with pytest.raises(InputError, match=message):
        sweep(entries, tmp_path / "sweep", restore_fn=pytest.fail, variances=variances)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_does_not_write_over_an_evaluation(entries, tmp_path):
    arguments = {"restore_fn": smooth, "model_info": {"path": "blur", "sha256": "1"}, "max_panels": 1}
    evaluate(entries, output=tmp_path / "out", **arguments)
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    with pytest.raises(InputError, match=r"already contains a metrics.json of something else"):
        sweep(entries, tmp_path / "out", restore_fn=pytest.fail)
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before
    sweep(entries, tmp_path / "sweep")
    with pytest.raises(InputError, match="already holds an evaluation"):
        evaluate(entries, output=tmp_path / "sweep", **arguments)
    sweep(entries, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "per_image.csv").exists(), "nothing of the old evaluation is left"


def test_a_sweep_that_is_made_anew_and_breaks_off_does_not_pass_for_the_old_one(entries, tmp_path):
    sweep(entries, tmp_path / "sweep")
    with pytest.raises(RuntimeError, match="power cut"):
        sweep(entries, tmp_path / "sweep", restore_fn=cut, overwrite=True)
    for name in ("metrics.json", "report.html", "curve.png", "sweep.csv"):
        assert not (tmp_path / "sweep" / name).exists()


def cut(image):
    raise RuntimeError("power cut")


def test_the_standard_variances():
    assert NOISE_VARIANCES == (0, 0.0005, 0.001, 0.005, 0.01)
