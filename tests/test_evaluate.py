"""Evaluation end to end: real files in, a report out."""

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from drsn_jax.data.pairs import Pair, find_pairs
from drsn_jax.errors import InputError
from drsn_jax.evaluation.evaluate import evaluate, format_table
from drsn_jax.evaluation.metrics import METRICS, score_pair
from drsn_jax.evaluation.protocols import add_noise, apply_protocol

CORNERS = {"c": (20, 180), "a": (120, 60), "b": (230, 240)}


def sharpen(image):
    """An unsharp mask: raises the PSNR of a mild blur, and multiplies noise."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.UnsharpMask(radius=2, percent=80, threshold=0)))


def unchanged(image):
    return image


@pytest.fixture
def folder(photograph, tmp_path):
    """Three pairs of 96x128, blurred by a Gaussian, in GoPro's layout."""
    for kind in ("blur", "sharp"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for name, (top, left) in CORNERS.items():
        sharp = Image.fromarray(photograph[top : top + 96, left : left + 128])
        sharp.save(tmp_path / "data" / "sharp" / f"{name}.png")
        sharp.filter(ImageFilter.GaussianBlur(1.2)).save(tmp_path / "data" / "blur" / f"{name}.png")
    return tmp_path / "data"


def load(path):
    return np.asarray(Image.open(path))


def run(folder, output, **changes):
    arguments = {"restore_fn": sharpen, "model_info": {"path": "unsharp mask"}, "pairs": find_pairs(folder), "output": output}
    return evaluate(**(arguments | changes))


def test_files_to_report(folder, tmp_path):
    output = tmp_path / "report"
    summary = run(folder, output, command="drsn-jax evaluate")
    assert json.loads((output / "metrics.json").read_text()) == summary
    assert {path.name for path in output.iterdir()} == {"metrics.json", "per_image.csv", "report.md", "panels"}
    assert {path.name for path in (output / "panels").iterdir()} == {"a.png", "b.png", "c.png"}
    expected = [score_pair(sharpen(load(folder / "blur" / f"{n}.png")), load(folder / "sharp" / f"{n}.png")) for n in CORNERS]
    for metric in METRICS:
        assert summary["restored"][metric] == pytest.approx(np.mean([float(scores[metric]) for scores in expected]), abs=1e-5)
    assert summary["gain"]["psnr"] > 0.5, "an unsharp mask helps against this blur"
    assert summary["worse"] == 0


def test_noise_and_protocol_are_applied_in_order_of_names(folder, tmp_path):
    pairs = find_pairs(folder)[::-1]
    summary = run(folder, tmp_path / "report", pairs=pairs, protocol="half", noise_variance=0.001)
    rows = list(csv.DictReader((tmp_path / "report" / "per_image.csv").open(newline="")))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    for index, row in enumerate(rows):
        blurred, sharp = (apply_protocol(load(folder / kind / f"{row['name']}.png"), protocol="half") for kind in ("blur", "sharp"))
        noisy = add_noise(blurred, variance=0.001, index=index)
        assert float(row["input_psnr"]) == pytest.approx(float(score_pair(noisy, sharp)["psnr"]), abs=1e-4)
        assert (row["height"], row["width"]) == ("48", "64")
    assert (summary["protocol"], summary["noise_variance"]) == ("half", 0.001)


def test_sharpened_noise_counts_as_worse(folder, tmp_path):
    assert run(folder, tmp_path / "report", noise_variance=0.005)["worse"] == 3


def test_nothing_gained_by_nothing(folder, tmp_path):
    summary = run(folder, tmp_path / "report", restore_fn=unchanged)
    assert summary["gain"] == dict.fromkeys(METRICS, 0.0)
    assert summary["input"] == summary["restored"]


@pytest.mark.parametrize(("max_panels", "expected"), [(0, set()), (2, {"a.png", "c.png"}), (9, {"a.png", "b.png", "c.png"})])
def test_panels_are_spread_over_the_images(folder, tmp_path, max_panels, expected):
    summary = run(folder, tmp_path / "report", max_panels=max_panels)
    assert {path.name for path in (tmp_path / "report").glob("panels/*.png")} == expected
    assert set(summary["panels"]) == {f"panels/{name}" for name in expected}


def test_names_with_folders_give_flat_panels(folder, tmp_path):
    pairs = [Pair("scene/1", folder / "blur" / "a.png", folder / "sharp" / "a.png")]
    run(folder, tmp_path / "report", pairs=pairs)
    assert (tmp_path / "report" / "panels" / "scene__1.png").exists()


def test_unequal_pairs_name_both_files_and_sizes_before_anything_is_done(folder, tmp_path):
    Image.fromarray(load(folder / "sharp" / "c.png")[:90]).save(folder / "sharp" / "c.png")
    restored = []
    with pytest.raises(InputError) as caught:
        run(folder, tmp_path / "report", restore_fn=restored.append, protocol="resize256")
    for part in (str(folder / "blur" / "c.png"), str(folder / "sharp" / "c.png"), "96x128", "90x128"):
        assert part in str(caught.value)
    assert not restored
    assert not (tmp_path / "report").exists()


def test_a_finished_report_is_kept_unless_told(folder, tmp_path):
    run(folder, tmp_path / "report")
    with pytest.raises(InputError, match="already holds an evaluation"):
        run(folder, tmp_path / "report", restore_fn=unchanged)
    assert run(folder, tmp_path / "report", restore_fn=unchanged, overwrite=True)["gain"]["psnr"] == 0
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["gain"]["psnr"] == 0


def test_a_broken_run_leaves_no_metrics(folder, tmp_path):
    def fail(image):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(folder, tmp_path / "report", restore_fn=fail)
    assert not (tmp_path / "report" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "quarter"}, "full, half, resize256"),
        ({"noise_variance": -1.0}, "variance"),
        ({"pairs": []}, "pair"),
        ({"max_panels": -1}, "panels"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        run(folder, tmp_path / "report", **change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


def test_progress_is_shown_on_a_terminal_only(folder, tmp_path, capsys, monkeypatch):
    run(folder, tmp_path / "quiet")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(folder, tmp_path / "terminal")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "3/3 c" in shown.err
    assert shown.err.endswith("\r\x1b[K"), "the line is cleared at the end"


def test_terminal_table(folder, tmp_path):
    summary = run(folder, tmp_path / "report", noise_variance=0.0005)
    title, header, *rows = format_table(summary).splitlines()
    assert "full" in title
    assert "0.0005" in title
    for name in ("PSNR", "gaussian", "skimage", "matlab_rgb"):
        assert name in header
    assert [row.split()[0] for row in rows[:3]] == ["input", "restored", "gain"]
    assert rows[0].split()[1] == f"{summary['input']['psnr']:.2f}"
    assert rows[2].split()[1] == f"{summary['gain']['psnr']:+.2f}"
    assert {len(row) for row in rows[:3]} == {len(header)}, "columns are aligned"
    assert "3 images" in rows[3]
