"""The report's files: complete, machine-readable, made from metrics.json alone, and never of two evaluations at once."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import drsn_jax
from drsn_jax.evaluation.metrics.scorers import PAIRED, make_koehler_scorer
from drsn_jax.evaluation.report.document import make_document
from drsn_jax.evaluation.report.formats import as_html, as_markdown
from drsn_jax.evaluation.report.report import describe_run, finished_summary, open_report, read_summary, write_report
from drsn_jax.evaluation.scoring.scores import ImageScore, summarise
from drsn_jax.ops.metrics import METRICS
from drsn_jax.system.errors import InputError


def make_score(name, before, after, other=26.0, *, first=False):
    versions = {"input": before, "restored": after, "theirs": other}
    values = {v: {metric: psnr if metric == "psnr" else psnr / 40 for metric in METRICS} for v, psnr in versions.items()}
    return ImageScore(name, 720, 1280, values, 0.5, first)


SCORES = [make_score("scene a/1", 25.0, 27.5, first=True), make_score("b|<2>", 30.0, 29.0)]
MODEL = {"path": "weights.npz", "step": 12, "parameters": 345678}
SETTINGS = {"protocol": "half", "zoom_box": "auto"}


@pytest.fixture
def summary():
    command = "drsn-jax evaluate --protocol half"
    run = describe_run(protocol="half", noise_variance=0.001, scorer=PAIRED, model_info=MODEL, command=command)
    return {
        **run,
        **summarise(SCORES),
        "settings": SETTINGS,
        "panels": ["panels/scene a__1.png"],
        "blurred": "there/blur",
        "sharp": "there/sharp",
    }


@pytest.fixture
def report(summary, tmp_path):
    with open_report(tmp_path, settings=SETTINGS):
        (tmp_path / "panels").mkdir()
        Image.fromarray(np.full((30, 2400, 3), 99, np.uint8)).save(tmp_path / "panels" / "scene a__1.png")
    write_report(tmp_path, summary=summary, scores=SCORES)
    return tmp_path


def test_metrics_file_holds_everything(report, summary):
    data = read_summary(report)
    assert data == read_summary(report / "metrics.json")
    assert {key: data[key] for key in summary} == json.loads(json.dumps(summary))
    assert (data["protocol"], data["noise_variance"], data["images"], data["worse"]) == ("half", 0.001, 2, 1)
    assert data["metrics"][0]["name"] == "psnr"
    assert (data["input"]["psnr"], data["restored"]["psnr"], data["gain"]["psnr"]) == (27.5, 28.25, 0.75)
    assert data["compared"]["theirs"]["psnr"] == 26
    assert data["model"] == {"path": "weights.npz", "step": 12, "parameters": 345678, "sha256": None}
    assert [image["name"] for image in data["per_image"]] == ["scene a/1", "b|<2>"]
    assert data["per_image"][1]["scores"]["restored"]["psnr"] == 29


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
        write_report(tmp_path, summary=summary, scores=SCORES)
    assert not (tmp_path / "metrics.json").exists()


def test_table_of_images_has_a_row_each(report):
    rows = list(csv.DictReader((report / "per_image.csv").open(newline="")))
    assert [row["name"] for row in rows] == ["scene a/1", "b|<2>"]
    assert float(rows[0]["input_psnr"]) == 25
    assert float(rows[0]["restored_ssim_matlab_rgb"]) == pytest.approx(27.5 / 40, abs=1e-6)
    assert float(rows[0]["theirs_psnr"]) == 26
    assert [row["worse"] for row in rows] == ["0", "1"]
    assert [row["first_of_size"] for row in rows] == ["1", "0"]
    assert (rows[0]["height"], rows[0]["width"]) == ("720", "1280")


def test_readable_report_spells_the_protocol_and_shows_panels(report):
    text = (report / "report.md").read_text()
    assert "half size" in text
    assert "variance 0.001" in text
    assert "SSIM (matlab_rgb)" in text
    assert "| gain | +0.75 |" in text
    assert "| theirs | 26.00 |" in text
    assert "1 made worse" in text
    assert "345,678 parameters" in text
    assert "blurred `there/blur`" in text
    assert "(panels/scene%20a__1.png)" in text
    assert "| b\\|<2> | 1280x720 | 30.00 | 29.00 | -1.00 (worse) |" in text


def test_tables_have_as_many_cells_in_every_row(report):
    for block in (report / "report.md").read_text().split("\n\n"):
        rows = [line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1
    for table in re.findall(r"<table>.*?</table>", (report / "report.html").read_text(), re.DOTALL):
        rows = [len(re.findall(r"<t[dh][ >]", row)) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
        assert len(set(rows)) == 1


def test_the_page_needs_nothing_beside_it(report):
    page = (report / "report.html").read_text()
    assert not re.search(r'src="(?!data:)', page)
    assert "<link" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert 'src="data:image/jpeg;base64,' in page
    assert 'width="1800"' in page, "a wide panel is made smaller"
    assert "b|&lt;2&gt;" in page, "names are escaped"
    assert "<2>" not in page
    assert page.count("<button>") == 10, "the table of images can be sorted by each column"


def test_the_report_is_made_of_metrics_json_alone(report):
    document = make_document(read_summary(report))
    assert as_markdown(document) == (report / "report.md").read_text()
    assert as_html(document, folder=report) == (report / "report.html").read_text()


def test_koehlers_report_has_a_table_by_trajectory(tmp_path):
    scorer = make_koehler_scorer(single_truth=True)
    psnrs = {"Blurry1_1": 20.0, "Blurry1_12": 30.0, "Blurry2_1": 26.0}
    scores = [
        ImageScore(name, 8, 8, {v: {m.name: value + d for m in scorer.metrics} for v, d in (("input", 0), ("restored", 1))}, 1.0, False)
        for name, value in psnrs.items()
    ]
    run = describe_run(protocol="koehler_single", noise_variance=0.0, scorer=scorer, model_info=MODEL, command="")
    write_report(tmp_path, summary={**run, **summarise(scores, metrics=scorer.metrics), "panels": []}, scores=scores)
    text = (tmp_path / "report.md").read_text()
    assert "### PSNR (dB) by trajectory: input\n\n|  | 1 | 12 | mean |" in text
    assert "| scene 1 | 20.00 | 30.00 | 25.00 |" in text
    assert "| scene 2 | 26.00 |  | 26.00 |" in text
    assert "| mean | 23.00 | 30.00 | 25.33 |" in text
    assert "| scene 1 | 21.00 | 31.00 | 26.00 |" in text, "and one of the restored images"
    assert "single-GT approximation" in text.split("| mean |")[0], "before any figure"


def test_a_finished_evaluation_is_returned_to_those_who_ask_for_the_same(report, capsys):
    assert finished_summary(report, settings=SETTINGS)["gain"]["psnr"] == 0.75
    assert "--overwrite" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"already holds an evaluation .*protocol: half, now full"):
        finished_summary(report, settings=SETTINGS | {"protocol": "full"})
    assert finished_summary(report / "elsewhere", settings=SETTINGS) is None


def test_overwriting_clears_what_would_mislead(report):
    (report / "panels" / "mine.png").write_bytes(b"mine")
    (report / "notes.txt").write_text("the user's own")
    with open_report(report, settings=SETTINGS, overwrite=True) as journal:
        assert journal.scores == {}
    assert not (report / "metrics.json").exists()
    assert not (report / "report.html").exists()
    assert [path.name for path in (report / "panels").iterdir()] == ["mine.png"], "the panels that the report lists are gone"
    assert (report / "notes.txt").exists()


@pytest.mark.parametrize("name", ["report.md", "per_image.csv", "report.html"])
def test_files_of_others_are_not_written_over(name, tmp_path):
    (tmp_path / name).write_text("somebody's")
    with pytest.raises(InputError, match=rf"already holds a {name}"):
        open_report(tmp_path, settings=SETTINGS)
    assert (tmp_path / name).read_text() == "somebody's"


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be written"):
            open_report(output, settings=SETTINGS)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "There is no"), ("{", "cannot be read"), ('{"schema": 2, "kind": "noise sweep"}', "not the")]
)
def test_what_is_no_evaluation_is_told(content, message, tmp_path):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_summary(tmp_path)
    assert "\n" not in str(caught.value)


def journal_of(folder, *scores, settings=SETTINGS):
    with open_report(folder, settings=settings) as journal:
        for score in scores:
            journal.append(score)
    return folder / "scores.jsonl"


def test_an_interrupted_evaluation_goes_on_with_the_scores_it_had(tmp_path):
    found = replace(SCORES[0], findings={"detections": {"input": []}})
    journal_of(tmp_path, found)
    with open_report(tmp_path, settings=SETTINGS) as journal:
        assert journal.scores == {"scene a/1": found}
        journal.append(SCORES[1])
    with open_report(tmp_path, settings=SETTINGS) as journal:
        assert list(journal.scores.values()) == [found, SCORES[1]]


def test_a_line_cut_off_by_a_crash_is_dropped_and_written_over(tmp_path):
    path = journal_of(tmp_path, *SCORES)
    whole = path.read_bytes()
    for cut in (1, 40):
        path.write_bytes(whole[:-cut])
        with open_report(tmp_path, settings=SETTINGS) as journal:
            assert list(journal.scores) == ["scene a/1"]
            journal.append(SCORES[1])
        assert path.read_bytes() == whole


def test_an_unfinished_evaluation_with_other_settings_is_kept(tmp_path):
    path = journal_of(tmp_path, *SCORES)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"protocol: half, now full.*--overwrite"):
        open_report(tmp_path, settings=SETTINGS | {"protocol": "full"})
    assert path.read_bytes() == before


def test_a_damaged_journal_is_told(tmp_path):
    path = journal_of(tmp_path, *SCORES)
    for damage in (path.read_text().replace('"name"', '"noun"'), "[1]\n"):
        path.write_text(damage)
        with pytest.raises(InputError, match="damaged"):
            open_report(tmp_path, settings=SETTINGS)


def test_a_foreign_metrics_file_is_told(tmp_path):
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(InputError, match="already holds an evaluation"):
        finished_summary(tmp_path, settings=SETTINGS)
