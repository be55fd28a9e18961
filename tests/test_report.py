"""The report's files: complete, machine-readable, and never of two evaluations at once."""

import csv
import json

import pytest

import drsn_jax
from drsn_jax.errors import InputError
from drsn_jax.evaluation.metrics import METRICS
from drsn_jax.evaluation.report import describe_run, open_report, panel_path, write_report
from drsn_jax.evaluation.scoring import ImageScore, summarise


def make_score(name, before, after, *, first=False):
    values = [{metric: psnr if metric == "psnr" else psnr / 40 for metric in METRICS} for psnr in (before, after)]
    return ImageScore(name, 720, 1280, values[0], values[1], 0.5, first)


SCORES = [make_score("scene a/1", 25.0, 27.5, first=True), make_score("b|2", 30.0, 29.0)]
MODEL = {"path": "weights.npz", "step": 12, "parameters": 345678}


@pytest.fixture
def summary():
    run = describe_run(protocol="half", noise_variance=0.001, model_info=MODEL, command="drsn-jax evaluate --protocol half")
    return {**run, **summarise(SCORES), "panels": [panel_path("scene a/1")]}


@pytest.fixture
def report(summary, tmp_path):
    open_report(tmp_path)
    write_report(tmp_path, summary=summary, scores=SCORES, panels=["scene a/1"])
    return tmp_path


def test_metrics_file_can_be_read_back(report, summary):
    data = json.loads((report / "metrics.json").read_text())
    assert data == summary
    assert (data["protocol"], data["noise_variance"], data["images"], data["worse"]) == ("half", 0.001, 2, 1)
    assert data["headline_ssim"] == "ssim_gaussian"
    assert data["input"]["psnr"] == 27.5
    assert data["restored"]["psnr"] == 28.25
    assert data["gain"]["psnr"] == 0.75
    assert data["model"] == {"path": "weights.npz", "step": 12, "parameters": 345678, "sha256": None}
    assert data["command"] == "drsn-jax evaluate --protocol half"


def test_metrics_file_says_where_it_was_made(summary):
    import jax

    assert summary["versions"]["drsn_jax"] == drsn_jax.__version__
    assert summary["versions"]["jax"] == jax.__version__
    assert {"flax", "numpy", "pillow", "python"} <= summary["versions"].keys()
    assert summary["device"]["kind"] == jax.devices()[0].device_kind
    assert summary["platform"]


def test_not_a_number_never_reaches_the_file(summary, tmp_path):
    summary["gain"]["psnr"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path, summary=summary, scores=SCORES, panels=[])
    assert not (tmp_path / "metrics.json").exists()


def test_table_of_images_has_a_row_each(report):
    rows = list(csv.DictReader((report / "per_image.csv").open(newline="")))
    assert [row["name"] for row in rows] == ["scene a/1", "b|2"]
    assert float(rows[0]["input_psnr"]) == 25
    assert float(rows[0]["restored_ssim_matlab_rgb"]) == pytest.approx(27.5 / 40, abs=1e-6)
    assert [row["worse"] for row in rows] == ["0", "1"]
    assert [row["first_of_size"] for row in rows] == ["1", "0"]
    assert (rows[0]["height"], rows[0]["width"]) == ("720", "1280")


def test_readable_report_spells_the_protocol_and_links_panels(report):
    text = (report / "report.md").read_text()
    assert "half size" in text
    assert "variance 0.001" in text
    assert "SSIM (matlab_rgb)" in text
    assert "| gain | +0.75 |" in text
    assert "1 made worse" in text
    assert "345678" in text
    assert "[scene a/1](panels/scene%20a__1.png)" in text
    assert "| b\\|2 | 1280x720 | 30.00 | 29.00 | -1.00 (worse) |" in text


def test_tables_have_as_many_cells_in_every_row(report):
    for block in (report / "report.md").read_text().split("\n\n"):
        rows = [line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1


def test_a_finished_evaluation_is_not_overwritten_unasked(report):
    before = (report / "metrics.json").read_bytes()
    with pytest.raises(InputError, match="already holds an evaluation"):
        open_report(report)
    assert (report / "metrics.json").read_bytes() == before


def test_overwriting_clears_what_would_mislead(report):
    (report / "panels").mkdir()
    (report / "panels" / "old.png").write_bytes(b"old")
    (report / "notes.txt").write_text("the user's own")
    open_report(report, overwrite=True)
    assert not (report / "metrics.json").exists()
    assert not (report / "panels" / "old.png").exists()
    assert (report / "notes.txt").exists()
    assert "Not finished" in (report / "report.md").read_text()


def test_an_unfinished_evaluation_may_be_repeated(tmp_path):
    open_report(tmp_path)
    open_report(tmp_path)


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be written"):
            open_report(output)
