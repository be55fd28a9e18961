"""The contents of a report in order, independent of its format: made from metrics.json alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from drsn_jax.evaluation.metrics.koehler import parse_koehler_name
from drsn_jax.evaluation.metrics.scorers import Metric


class Table(NamedTuple):
    """Rows of text under a header; the first `text_columns` columns hold words, the others figures.

    Readers can sort long ones.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    text_columns: int = 1
    sortable: bool = False


class Bullets(NamedTuple):
    """Names with their values; `code`: values in a fixed-width font; `links`: files, relative to the report."""

    title: str
    items: list[tuple[str, str]]
    code: bool = False
    links: bool = False


class Pictures(NamedTuple):
    """Picture files, relative to the report."""

    title: str
    paths: list[str]


class Document(NamedTuple):
    """A title and blocks; a plain string is a paragraph."""

    title: str
    blocks: list[Table | Bullets | Pictures | str]


def make_document(summary: Mapping[str, Any]) -> Document:
    """Make the report of one evaluation."""
    metrics = [Metric(**metric) for metric in summary["metrics"]]
    blocks: list[Any] = [
        f"Protocol `{summary['protocol']}`: {summary['protocol_in_words']}.",
        f"Data: {describe_data(summary)}. Model: {describe_model(summary['model'])}.",
        make_headline(summary, metrics),
        describe_counts(summary),
        *summary.get("notes", ()),
        Bullets("", [(metric.title, f"{metric.words}{_better(metric)}") for metric in metrics]),
    ]
    if summary["protocol"].startswith("koehler"):
        blocks += [_trajectories(summary, version, metrics[0]) for version in ("input", "restored", *summary["compared"])]
    if "detection" in summary:
        blocks += _detection(summary["detection"], summary["detector"])
    if summary["panels"]:
        blocks.append(Pictures("Panels", summary["panels"]))
    blocks += [Bullets("Model and machine", make_facts(summary), code=True), _images(summary, metrics)]
    return Document("Evaluation", blocks)


def _better(metric: Metric) -> str:
    return "" if metric.higher_is_better is None else f"; {'higher' if metric.higher_is_better else 'lower'} is better"


def describe_data(summary: Mapping[str, Any]) -> str:
    """Describe the source of the images in words."""
    places = [f"{key} `{summary[key]}`" for key in ("data", "blurred", "sharp") if summary.get(key)]
    return f"{summary['images']} image{'' if summary['images'] == 1 else 's'}" + (f", {', '.join(places)}" if places else "")


def describe_model(model: Mapping[str, Any]) -> str:
    """Describe the model in words."""
    step = "" if model.get("step") is None else f", step {model['step']:,}"
    size = "" if model.get("parameters") is None else f", {model['parameters']:,} parameters in the generator"
    if model.get("parameters_critic") is not None:
        size += f", {model['parameters_critic']:,} in the critic, {model['parameters_both']:,} in both"
        size += f"; {model['gmacs_256x256']:.1f} GMACs for 256x256"
    return f"`{model['path']}`{step}{size}"


def make_headline(summary: Mapping[str, Any], metrics: Sequence[Metric]) -> Table:
    """Make the table of means by version: input, restored, gain, then other methods."""
    rows = {"input": summary["input"], "restored": summary["restored"], "gain": summary["gain"], **summary["compared"]}
    rows = {(version if "psnr" in values else version.replace("gain", "change")): values for version, values in rows.items()}
    body = [[version, *(m.format(values[m.name], signed=values is summary["gain"]) for m in metrics)] for version, values in rows.items()]
    return Table("", ["mean", *(metric.title for metric in metrics)], body)


def describe_counts(summary: Mapping[str, Any]) -> str:
    """Describe in one sentence the number of images, those made worse, and the time for one."""
    count = summary["images"]
    timing = ", compilation included" if summary["seconds_include_compilation"] else ""
    worse = "" if summary["worse"] is None else f", {summary['worse']} made worse by more than {summary['worse_by_db']} dB"
    return f"{count} image{'' if count == 1 else 's'}{worse}; {summary['seconds_per_image']:.3g} s an image (median{timing})."


def make_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List model, versions, machine and command, if known."""
    facts = {f"model {key}": value for key, value in summary.get("model", {}).items()}
    facts |= summary["versions"] | {"platform": summary["platform"]}
    device = summary["device"]
    facts |= {"device": f"{device['count']} x {device['kind']} ({device['backend']})", "created": summary["created"]}
    facts |= {key: summary.get(key) for key in ("tile", "overlap", "blur_folder")}
    facts["command"] = summary["command"] or None
    return [(key, str(value)) for key, value in facts.items() if value is not None]


def _images(summary: Mapping[str, Any], metrics: Sequence[Metric]) -> Table:
    first, *rest = metrics
    header = ["image", "size", f"{first.title} in", f"{first.title} out", "gain", *(f"{metric.title} out" for metric in rest)]
    header += [f"{first.title} {method}" for method in summary["compared"]] + ["seconds"]
    rows = []
    for image in summary["per_image"]:
        before, after = image["scores"]["input"], image["scores"]["restored"]
        gain = after[first.name] - before[first.name]
        worse = first.name == "psnr" and gain < -summary["worse_by_db"]
        cells = [image["name"], f"{image['width']}x{image['height']}", first.format(before[first.name]), first.format(after[first.name])]
        cells += [first.format(gain, signed=True) + (" (worse)" if worse else ""), *(m.format(after[m.name]) for m in rest)]
        cells += [first.format(image["scores"][method][first.name]) for method in summary["compared"]]
        rows.append([*cells, f"{image['seconds']:.3g}"])
    return Table("Images", header, rows, text_columns=2, sortable=True)


def _trajectories(summary: Mapping[str, Any], version: str, metric: Metric) -> Table:
    """Make Köhler's table: a row for each scene, a column for each of the twelve trajectories, and means."""
    values = {parse_koehler_name(image["name"]): image["scores"][version][metric.name] for image in summary["per_image"]}
    scenes, trajectories = (sorted({place[axis] for place in values}) for axis in (0, 1))

    def mean(places: list[tuple[int, int]]) -> str:
        found = [values[place] for place in places if place in values]
        return metric.format(fmean(found)) if found else ""

    rows = [[f"scene {s}", *(mean([(s, t)]) for t in trajectories), mean([(s, t) for t in trajectories])] for s in scenes]
    rows.append(["mean", *(mean([(s, t) for s in scenes]) for t in trajectories), mean(list(values))])
    return Table(f"{metric.title} by trajectory: {version}", ["", *map(str, trajectories), "mean"], rows)


def _detection(detection: Mapping[str, Any], detector: Mapping[str, Any]) -> list[Any]:
    """Describe the detected objects in each version, compared with those in the sharp image."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    header = ["", "objects", "sharp image's objects found", "recall", "share matched", "mean confidence", "of the matched"]
    rows = []
    for version, values in detection["versions"].items():
        shares = [share(values[key]) for key in ("recall", "share_matched", "mean_confidence", "mean_confidence_matched")]
        rows.append([version, str(values["count"]), f"{values['matched']} / {values['sharp_count']}", *shares])
    text = (
        f"Detector `{Path(detector['path']).name}` ({detector['layout']}, sha256 `{detector['sha256'][:16]}...`),"
        f" confidence {detector['confidence']:g} or more. A detected object counts as found if one of its class in the sharp image"
        f" overlaps it by IoU {detection['match_iou']:g} or more. The detections in the sharp images are not a ground truth, but"
        " the result for an undisturbed image."
    )
    return [Table("Objects detected", header, rows), text, *([detection["note"]] if detection["note"] else [])]
