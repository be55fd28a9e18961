"""Scoring a stream: order, laziness, what counts as worse, which times enter the median."""

import numpy as np
import pytest

from drsn_jax.evaluation.metrics.scorers import Metric, Scorer
from drsn_jax.evaluation.scoring.scores import Case, ImageScore, summarise
from drsn_jax.evaluation.scoring.stream import score_images
from drsn_jax.ops.metrics import METRICS, score_pair
from drsn_jax.system.errors import InputError


@pytest.fixture
def sharp(photograph):
    return np.ascontiguousarray(photograph[100:148, 200:264])


def soften(image):
    return np.mean([np.roll(image, k, axis=1) for k in (-1, 0, 1)], axis=0).round().astype(np.uint8)


def make_score(name="a", *, before=25.0, after=26.0, seconds=1.0, first=False):
    values = [{metric: value if metric == "psnr" else value / 100 for metric in METRICS} for value in (before, after)]
    return ImageScore(name, 10, 20, {"input": values[0], "restored": values[1]}, seconds, first)


def test_each_image_is_scored_before_and_after(sharp):
    blurred, worse = soften(sharp), soften(soften(sharp))
    (score,) = score_images([Case("scene/1", blurred, sharp)], restore_fn=lambda image: worse)
    assert (score.name, score.height, score.width) == ("scene/1", 48, 64)
    assert score.input == pytest.approx({name: float(value) for name, value in score_pair(blurred, sharp).items()})
    assert score.restored == pytest.approx({name: float(value) for name, value in score_pair(worse, sharp).items()})
    assert score.gain_db == pytest.approx(score.restored["psnr"] - score.input["psnr"])
    assert score.gain_db < 0
    assert score.worse
    assert score.seconds >= 0


def test_the_stream_is_never_held(sharp):
    """One image is read and one restored while another is scored. All are handed on in order, and few are held at a time."""
    events = []

    def samples():
        for name in "abcdefgh":
            events.append(f"read {name}")
            yield Case(name, soften(sharp), sharp)

    def on_image(score, case, restored):
        events.append(f"seen {score.name}")
        np.testing.assert_array_equal(case.blurred, soften(sharp))
        np.testing.assert_array_equal(restored, sharp)
        np.testing.assert_array_equal(case.truth, sharp)

    scores = score_images(samples(), restore_fn=lambda image: sharp, on_image=on_image)
    assert events == []
    for score in scores:
        events.append(f"got {score.name}")
    handed_on = [event for event in events if not event.startswith("read")]
    assert handed_on == [f"{what} {name}" for name in "abcdefgh" for what in ("seen", "got")]
    held = [sum(e.startswith("read") for e in events[:i]) - sum(e.startswith("got") for e in events[:i]) for i in range(len(events))]
    assert max(held) <= 4


@pytest.mark.parametrize("together", [2, 3])
def test_neighbours_of_one_size_are_restored_together(sharp, together):
    images = [soften(sharp), sharp, sharp[:20], sharp, soften(sharp), sharp, sharp]
    batches = []

    def restore(blurred):
        batches.append(blurred.shape)
        return 255 - blurred

    cases = [Case(str(i), image, sharp[: len(image)]) for i, image in enumerate(images)]
    scores = list(score_images(cases, restore_fn=restore, together=together))
    alone = list(score_images(cases, restore_fn=lambda image: 255 - image))
    assert [score.scores for score in scores] == [score.scores for score in alone]
    assert [score.first_of_size for score in scores] == [True, False, True, False, False, False, False]
    sizes = {2: [2, 1, 2, 2], 3: [2, 1, 3, 1]}[together]
    assert [shape[0] for shape in batches] == sizes
    assert [shape[1] for shape in batches] == [48, 20, 48, 48]


def test_known_scores_of_the_input_are_not_computed_again(sharp):
    seen = []

    def score_fn(images, truth):
        seen.append(len(images))
        return [{"psnr": float(image.mean())} for image in images]

    scorer = Scorer((Metric("psnr", "", ""),), score_fn)
    cases = [Case("a", sharp, sharp), Case("b", sharp, sharp, input_scores={"psnr": 7.0})]
    scores = list(score_images(cases, restore_fn=lambda image: image, scorer=scorer))
    assert seen == [2, 1]
    assert [score.input["psnr"] for score in scores] == [float(sharp.mean()), 7.0]
    assert list(scores[1].scores) == ["input", "restored"]


def test_first_of_each_size_is_marked(sharp):
    images = [sharp, sharp[:20], sharp, sharp[:20]]
    scores = score_images([Case(str(i), image, image) for i, image in enumerate(images)], restore_fn=lambda image: image)
    assert [score.first_of_size for score in scores] == [True, True, False, False]


def test_the_restoration_sees_only_the_blurred_image(sharp):
    seen = []
    list(score_images([Case("a", soften(sharp), sharp)], restore_fn=lambda image: seen.append(image.copy()) or image))
    np.testing.assert_array_equal(seen, [soften(sharp)])


@pytest.mark.parametrize("wrong", [lambda image: image[:-1], lambda image: image / 255], ids=["size", "type"])
def test_a_restoration_that_changes_size_or_type_is_a_bug(sharp, wrong):
    with pytest.raises(ValueError, match=r"a: restore_fn returned") as caught:
        list(score_images([Case("a", sharp, sharp)], restore_fn=wrong))
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(("blurred_rows", "sharp_rows", "message"), [(48, 47, "64x48 and 64x47"), (5, 5, "64x5")])
def test_pairs_that_cannot_be_scored_name_the_image(sharp, blurred_rows, sharp_rows, message):
    def never(image):
        raise AssertionError("restored in vain")

    with pytest.raises(InputError, match=rf"scene/7: .*{message}"):
        list(score_images([Case("scene/7", sharp[:blurred_rows], sharp[:sharp_rows])], restore_fn=never))


def test_summary_is_the_mean_over_images():
    summary = summarise([make_score(before=20.0, after=24.0), make_score(before=30.0, after=28.0)])
    assert summary["images"] == 2
    assert summary["input"]["psnr"] == 25
    assert summary["restored"]["psnr"] == 26
    assert summary["gain"]["psnr"] == pytest.approx(1)
    assert summary["gain"]["ssim_gaussian"] == pytest.approx(0.01)
    assert set(summary["gain"]) == set(METRICS)


def test_worse_means_by_more_than_a_tenth():
    losses = [make_score(after=25 - loss) for loss in (-1.0, 0.0, 0.09, 0.11, 2.0)]
    assert summarise(losses)["worse"] == 2


def test_median_time_leaves_compilations_out():
    scores = [make_score(seconds=60.0, first=True), *(make_score(seconds=s) for s in (3.0, 1.0, 2.0))]
    summary = summarise(scores)
    assert (summary["seconds_per_image"], summary["seconds_include_compilation"]) == (2, False)


def test_median_time_says_when_it_includes_compilations():
    summary = summarise([make_score(seconds=s, first=True) for s in (60.0, 62.0)])
    assert (summary["seconds_per_image"], summary["seconds_include_compilation"]) == (61, True)


def test_no_images_is_the_users_mistake():
    with pytest.raises(InputError, match="no images"):
        summarise([])


def test_a_generator_can_be_summarised(sharp):
    assert summarise(score_images([Case("a", sharp, sharp)], restore_fn=lambda image: image))["restored"]["psnr"] == 100


def test_other_methods_are_scored_beside_ours(sharp):
    others = {"median": soften(sharp), "mean": soften(soften(sharp))}
    (score,) = score_images([Case("a", soften(sharp), sharp, others=others)], restore_fn=lambda image: sharp)
    assert list(score.scores) == ["input", "restored", "median", "mean"]
    assert score.scores["median"] == score.input
    assert score.scores["mean"]["psnr"] < score.scores["median"]["psnr"] < score.restored["psnr"] == 100
    assert summarise([score])["compared"]["mean"] == score.scores["mean"]


def test_a_result_of_another_size_is_told_before_anything_is_restored(sharp):
    cases = [Case("a", sharp, sharp, others={"theirs": sharp[:-1]})]
    with pytest.raises(InputError, match=r"a: .*64x47"):
        list(score_images(cases, restore_fn=pytest.fail))


def test_a_scorer_without_psnr_counts_none_as_worse(sharp):
    scorer = Scorer((Metric("dark", "dark", "", higher_is_better=False),), lambda images, _: [{"dark": 255.0 - im.mean()} for im in images])
    scores = list(score_images([Case("a", sharp, None)], restore_fn=lambda image: image // 2, scorer=scorer))
    summary = summarise(scores, metrics=scorer.metrics)
    assert (scores[0].gain_db, scores[0].worse, summary["worse"]) == (None, False, None)
    assert summary["gain"]["dark"] == pytest.approx(sharp.mean() - (sharp // 2).mean())


def test_findings_are_made_of_every_version_with_the_reference_as_sharp(sharp):
    case = Case("a", soften(sharp), sharp, reference=sharp, others={"theirs": sharp})
    (score,) = score_images([case], restore_fn=lambda image: image, inspect_fn=lambda images: {"seen": list(images)})
    assert score.findings == {"seen": ["input", "restored", "theirs", "sharp"]}
