"""Comparing two evaluations: the interval, its width, its sign, and that only like is compared with like."""

import copy
import json

import numpy as np
import pytest
from scipy import stats

from drsn_jax.cli.main import main
from drsn_jax.evaluation.report.comparison import compare_summaries, format_differences, paired_bootstrap
from drsn_jax.system.errors import InputError

METRICS = [
    {"name": "psnr", "title": "PSNR (dB)", "words": "", "digits": 2, "higher_is_better": True},
    {"name": "lpips", "title": "LPIPS", "words": "", "digits": 4, "higher_is_better": False},
]


def make_summary(psnrs, *, lpips=0.2, inputs=None, names=None, **changes):
    names = names or [f"scene{i % 5}/{i:03d}" for i in range(len(psnrs))]
    inputs = np.full(len(psnrs), 25.0) if inputs is None else inputs
    images = [
        {"name": n, "scores": {"input": {"psnr": float(b), "lpips": 0.4}, "restored": {"psnr": float(p), "lpips": lpips}}}
        for n, b, p in zip(names, inputs, psnrs, strict=True)
    ]
    return {
        "schema": 2,
        "protocol": "full",
        "noise_variance": 0.0,
        "metrics": METRICS,
        "images": len(images),
        "per_image": images,
    } | changes


@pytest.fixture
def psnrs():
    return np.random.default_rng(0).normal(27, 3, 60)


def test_interval_agrees_with_scipys_paired_bootstrap(psnrs):
    differences = np.random.default_rng(1).exponential(0.3, 60) - 0.2
    expected = stats.bootstrap((differences,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    low, high = paired_bootstrap(differences, resamples=20_000)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.005)


def test_a_gain_of_every_image_exceeds_the_noise_and_chance_does_not(psnrs):
    rng = np.random.default_rng(3)
    better, same = psnrs + 0.2 + rng.normal(0, 0.1, 60), psnrs + rng.normal(0, 0.5, 60) - 0.01
    gain, lpips = compare_summaries(make_summary(psnrs), make_summary(better, lpips=0.1))
    assert gain.exceeds_noise
    assert gain.low < gain.mean < gain.high
    assert gain.mean == pytest.approx((better - psnrs).mean())
    assert lpips.mean == pytest.approx(-0.1)
    (chance, equal) = compare_summaries(make_summary(psnrs), make_summary(same))
    assert not chance.exceeds_noise
    assert not equal.exceeds_noise
    text = format_differences([gain, lpips, chance], names=("a", "b"), images=60, by="image")
    assert text.count("B is better, beyond the noise") == 2, "a lower LPIPS is better"
    assert text.count("within the noise") == 1


def test_pairing_finds_what_unpaired_spread_hides(psnrs):
    (gain, _) = compare_summaries(make_summary(psnrs), make_summary(psnrs + 0.05))
    assert gain.exceeds_noise
    assert gain.high - gain.low < 1e-9, "every image gains the same"


def test_frames_of_a_scene_count_as_one_where_scenes_are_drawn():
    shift = np.repeat([-1.0, 1.0, 0.5, 0.7, 0.1], 40)
    names = [f"scene{i // 40}/{i}" for i in range(200)]
    first, second = make_summary(np.zeros(200) + 27, names=names), make_summary(27 + shift, names=names)
    by_image, by_scene = (compare_summaries(first, second, by=by)[0] for by in ("image", "scene"))
    assert by_image.exceeds_noise
    assert not by_scene.exceeds_noise
    assert by_scene.mean == pytest.approx(by_image.mean)


def test_the_same_seed_gives_the_same_interval(psnrs):
    one, two, three = (paired_bootstrap(psnrs - 27, resamples=500, seed=seed) for seed in (1, 1, 2))
    assert one == two != three


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "half"}, "differ in protocol: full and half"),
        ({"noise_variance": 0.001}, "differ in noise_variance"),
        ({"inputs": np.full(60, 26.0)}, "not the same image in both"),
        ({"names": [f"x{i}" for i in range(60)]}, "in one evaluation only"),
    ],
)
def test_only_like_is_compared_with_like(psnrs, change, message):
    with pytest.raises(InputError, match=message):
        compare_summaries(make_summary(psnrs), make_summary(psnrs, **change))


def test_unknown_versions_and_single_images_are_told(psnrs):
    summary = make_summary(psnrs)
    with pytest.raises(InputError, match="choose one of input, restored"):
        compare_summaries(summary, copy.deepcopy(summary), versions=("theirs", "restored"))
    with pytest.raises(InputError, match="at least two images"):
        compare_summaries(make_summary([27.0]), make_summary([28.0]))
    with pytest.raises(InputError, match="at least two scenes"):
        paired_bootstrap(np.ones(3), groups=["a", "a", "a"])


def test_the_verb(psnrs, tmp_path, capsys):
    for name, values in (("a", psnrs), ("b", psnrs + 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(make_summary(values)))
    assert main(["compare", str(tmp_path / "a" / "metrics.json"), str(tmp_path / "b"), "--by=scene"]) == 0
    out = capsys.readouterr().out
    assert "60 images, paired bootstrap by scene, 95% intervals" in out
    assert "B is better, beyond the noise" in out
    report = str(tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    [psnr, *_] = json.loads(capsys.readouterr().out)
    assert (psnr["metric"], psnr["exceeds_noise"]) == ("psnr", psnr["low"] > 0 or psnr["high"] < 0)
    assert main(["compare", report, report, "--version=input,restored"]) == 0, "within one report"
    assert "(input), B = " in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--resamples=3"]) == 2
    assert "100 to 1,000,000" in capsys.readouterr().err
