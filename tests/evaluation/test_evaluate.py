"""Evaluation end to end: real files in, a report out."""

import csv
import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image, ImageFilter

from drsn_jax.data.pairs.folders import find_pairs
from drsn_jax.evaluation.baselines import add_baselines, write_inputs
from drsn_jax.evaluation.evaluate import evaluate
from drsn_jax.evaluation.report.formats import format_table
from drsn_jax.evaluation.scoring.entries import Entry, paired_entries, read_case
from drsn_jax.evaluation.scoring.protocols import add_noise, apply_protocol
from drsn_jax.ops.metrics import METRICS, score_pair
from drsn_jax.system.errors import InputError

CLEAN = {"protocol": "full", "noise_variance": 0.0}
CORNERS = {"c": (20, 180), "a": (120, 60), "b": (230, 240)}


def sharpen(image):
    """Apply an unsharp mask, which raises the PSNR of a mild blur and multiplies noise."""
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


def run(folder, output, *, entries=None, **changes):
    arguments = {"restore_fn": sharpen, "model_info": {"path": "unsharp mask", "sha256": "1234"}, "output": output}
    return evaluate(paired_entries(find_pairs(folder)) if entries is None else entries, **(arguments | changes))


def test_files_to_report(folder, tmp_path):
    output = tmp_path / "report"
    summary = run(folder, output, command="drsn-jax evaluate")
    assert json.loads((output / "metrics.json").read_text()) == summary
    assert {path.name for path in output.iterdir()} == {"metrics.json", "per_image.csv", "report.md", "report.html", "panels"}
    assert {path.name for path in (output / "panels").iterdir()} == {"a.png", "b.png", "c.png"}
    expected = [score_pair(sharpen(load(folder / "blur" / f"{n}.png")), load(folder / "sharp" / f"{n}.png")) for n in CORNERS]
    for metric in METRICS:
        assert summary["restored"][metric] == pytest.approx(np.mean([float(scores[metric]) for scores in expected]), abs=1e-5)
    assert summary["gain"]["psnr"] > 0.5, "an unsharp mask helps against this blur"
    assert summary["worse"] == 0


def test_noise_and_protocol_are_applied_in_order_of_names(folder, tmp_path):
    entries = paired_entries(find_pairs(folder)[::-1])
    summary = run(folder, tmp_path / "report", entries=entries, protocol="half", noise_variance=0.001)
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
    run(folder, tmp_path / "report", entries=[Entry("scene/1", folder / "blur" / "a.png", folder / "sharp" / "a.png")])
    assert (tmp_path / "report" / "panels" / "scene__1.png").exists()


def test_unequal_pairs_name_both_files_and_sizes_before_anything_is_done(folder, tmp_path):
    Image.fromarray(load(folder / "sharp" / "c.png")[:90]).save(folder / "sharp" / "c.png")
    with pytest.raises(InputError) as caught:
        paired_entries(find_pairs(folder))
    for part in (str(folder / "blur" / "c.png"), str(folder / "sharp" / "c.png"), "96x128", "90x128"):
        assert part in str(caught.value)


def test_a_finished_report_is_kept_unless_told(folder, tmp_path):
    first = run(folder, tmp_path / "report")
    other = {"restore_fn": unchanged, "model_info": {"path": "nothing", "sha256": "5678"}}
    with pytest.raises(InputError, match="already holds an evaluation"):
        run(folder, tmp_path / "report", **other)
    assert run(folder, tmp_path / "report", restore_fn=pytest.fail) == first, "the same evaluation is not made twice"
    assert run(folder, tmp_path / "report", overwrite=True, **other)["gain"]["psnr"] == 0
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
        ({"entries": []}, "no images"),
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
    assert "] 1/3 0:0" in shown.err
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


STOPPING = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_evaluate
from drsn_jax.data.pairs.folders import find_pairs
calls = []

def stopping(image):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), 9)
    return test_evaluate.sharpen(image)

test_evaluate.run(Path(sys.argv[2]), Path(sys.argv[3]), restore_fn=stopping, noise_variance=0.001, max_panels=3)
"""


def test_killed_it_goes_on_and_scores_no_image_twice(folder, tmp_path, capsys):
    """And the figures are those of a run that was left alone: the noise is seeded by the place in the whole list."""
    argv = [sys.executable, "-c", STOPPING, str(Path(__file__).parent), str(folder), str(tmp_path / "report")]
    done = subprocess.run(argv, env=tiny.environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "report" / "metrics.json").exists()
    seen = []
    summary = run(
        folder, tmp_path / "report", restore_fn=lambda image: seen.append(1) or sharpen(image), noise_variance=0.001, max_panels=3
    )
    assert len(seen) == 2, "the last, and the one before it, which was being scored"
    assert "1 of 3 were done by an earlier run" in capsys.readouterr().err
    assert len(summary["panels"]) == 3
    whole = run(folder, tmp_path / "whole", noise_variance=0.001)
    for resumed, alone in zip(summary["per_image"], whole["per_image"], strict=True):
        for version in ("input", "restored"):  # the killed process compiled with fewer optimisations: the last digits differ
            assert resumed["scores"][version] == pytest.approx(alone["scores"][version], rel=1e-5), resumed["name"]
    assert not (tmp_path / "report" / "scores.jsonl").exists()


def test_memory_holds_a_few_images_whatever_their_number(folder, tmp_path, monkeypatch):
    """One is read, one restored, one scored and one handed on, and each is blurred and sharp."""
    alive, most = weakref.WeakSet(), []

    class Pixels(np.ndarray):
        pass

    def read(entry, **arguments):
        case = read_case(entry, **arguments)
        marked = [array.copy().view(Pixels) for array in (case.blurred, case.truth)]
        alive.update(marked)
        most.append(len(alive))
        return case._replace(blurred=marked[0], truth=marked[1], reference=marked[1])

    monkeypatch.setattr("drsn_jax.evaluation.evaluate.read_case", read)
    monkeypatch.setattr(Pixels, "__hash__", lambda self: id(self), raising=False)
    monkeypatch.setattr(Pixels, "__eq__", lambda self, other: self is other, raising=False)
    files = folder / "blur" / "a.png", folder / "sharp" / "a.png"
    run(folder, tmp_path / "report", entries=[Entry(f"{i:02d}", *files) for i in range(12)], max_panels=0)
    assert len(most) == 12
    assert max(most) <= 10, most


def test_other_methods_stand_in_every_table_and_picture(folder, tmp_path):
    for name in CORNERS:
        (tmp_path / "theirs" / "blur").mkdir(parents=True, exist_ok=True)
        Image.fromarray(sharpen(load(folder / "blur" / f"{name}.png"))).save(tmp_path / "theirs" / "blur" / f"{name}.png")
    entries = add_baselines(paired_entries(find_pairs(folder)), {"theirs": tmp_path / "theirs"}, **CLEAN)
    summary = run(folder, tmp_path / "report", entries=entries, max_panels=1)
    assert summary["compared"]["theirs"] == summary["restored"], "the same sharpening"
    assert "theirs" in format_table(summary)
    with Image.open(tmp_path / "report" / "panels" / "a.png") as panel:
        assert panel.width > 4 * 128


def test_other_methods_must_have_every_image_at_its_size(folder, tmp_path):
    entries = paired_entries(find_pairs(folder))
    with pytest.raises(InputError, match="There is no folder"):
        add_baselines(entries, {"theirs": tmp_path / "theirs"}, **CLEAN)
    (tmp_path / "theirs").mkdir()
    for name in "ab":
        Image.fromarray(load(folder / "blur" / f"{name}.png")).save(tmp_path / "theirs" / f"{name}.jpg")
    with pytest.raises(InputError, match=r"lacks 1 of 3 images \(c\)"):
        add_baselines(entries, {"theirs": tmp_path / "theirs"}, **CLEAN)
    Image.fromarray(load(folder / "blur" / "c.png")[:-2]).save(tmp_path / "theirs" / "c.png")
    with pytest.raises(InputError, match="is 94x128; the protocol full scores 96x128"):
        add_baselines(entries, {"theirs": tmp_path / "theirs"}, **CLEAN)


def test_a_zoom_box_is_drawn_where_it_was_given_and_must_lie_inside(folder, tmp_path):
    run(folder, tmp_path / "one", max_panels=1, zoom_box=(10, 20, 30, 40))
    run(folder, tmp_path / "two", max_panels=1, zoom_box=(50, 60, 30, 40))
    assert (tmp_path / "one/panels/a.png").read_bytes() != (tmp_path / "two/panels/a.png").read_bytes()
    with pytest.raises(InputError, match=r"The zoom box .* does not lie inside"):
        run(folder, tmp_path / "three", restore_fn=pytest.fail, max_panels=1, zoom_box=(90, 20, 30, 40))
    assert not (tmp_path / "three").exists(), "found before anything was begun"


def test_files_that_have_changed_since_are_not_passed_off_as_scored(folder, tmp_path):
    """Nor are scores of the old and the new files mixed where an evaluation was interrupted."""
    run(folder, tmp_path / "report")
    Image.fromarray(255 - load(folder / "blur" / "b.png")).save(folder / "blur" / "b.png")
    with pytest.raises(InputError, match="the files have changed"):
        run(folder, tmp_path / "report")
    theirs = {"theirs": folder / "blur"}
    entries = add_baselines(paired_entries(find_pairs(folder)), theirs, protocol="full", noise_variance=0.0)
    summary = run(folder, tmp_path / "compared", entries=entries)
    assert summary["compared"]["theirs"] == summary["input"]
    other = add_baselines(paired_entries(find_pairs(folder)), {"theirs": folder / "sharp"}, protocol="full", noise_variance=0.0)
    with pytest.raises(InputError, match="the files have changed, or are different ones"):
        run(folder, tmp_path / "compared", entries=other)


@pytest.mark.parametrize(("protocol", "variance"), [("full", 0.0), ("half", 0.0), ("full", 0.01)])
def test_other_methods_restore_the_very_inputs_that_we_do(folder, tmp_path, protocol, variance):
    """What is written for them, given back untouched, scores as the input does, under any protocol and noise."""
    how = {"protocol": protocol, "noise_variance": variance}
    entries = paired_entries(find_pairs(folder))
    write_inputs(entries, folder=tmp_path / "inputs", **how)
    summary = run(folder, tmp_path / "report", entries=add_baselines(entries, {"none": tmp_path / "inputs"}, **how), **how)
    assert summary["compared"]["none"] == summary["input"]


def test_results_on_clean_images_never_stand_beside_ours_on_noisy_ones(folder, tmp_path):
    entries = paired_entries(find_pairs(folder))
    with pytest.raises(InputError, match=r"noise_0\.001\. Noise needs .*--write-inputs"):
        add_baselines(entries, {"theirs": folder / "blur"}, protocol="full", noise_variance=0.001)
    with pytest.raises(InputError, match="the protocol half scores 48x64"):
        add_baselines(entries, {"theirs": folder / "blur"}, protocol="half", noise_variance=0.0)


def test_two_results_of_one_name_are_refused(folder, tmp_path):
    for side in ("blur", "input"):
        (tmp_path / "theirs" / side).mkdir(parents=True)
        (tmp_path / "theirs" / side / "a.png").write_bytes((folder / "blur" / "a.png").read_bytes())
    with pytest.raises(InputError, match="are both the result for a"):
        add_baselines(paired_entries(find_pairs(folder)), {"theirs": tmp_path / "theirs"}, protocol="full", noise_variance=0.0)


def test_overwriting_leaves_pictures_of_others_alone(folder, tmp_path):
    (tmp_path / "report" / "panels").mkdir(parents=True)
    (tmp_path / "report" / "panels" / "mine.png").write_bytes(b"mine")
    run(folder, tmp_path / "report", overwrite=True, max_panels=3)
    run(folder, tmp_path / "report", overwrite=True, max_panels=1)
    assert {path.name for path in (tmp_path / "report" / "panels").iterdir()} == {"mine.png", "a.png"}


def test_two_evaluations_do_not_share_a_folder(folder, tmp_path):
    def restore(image):
        with pytest.raises(InputError, match=r"process \d+ on .* is evaluating there"):
            run(folder, tmp_path / "report", restore_fn=pytest.fail)
        return sharpen(image)

    assert run(folder, tmp_path / "report", restore_fn=restore)["images"] == 3
