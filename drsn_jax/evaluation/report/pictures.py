"""The pictures of an evaluation: panels of some images (Jiang & Liu, 5), drawn while the images are in memory."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from drsn_jax.evaluation.detection.boxes import make_detection_panel
from drsn_jax.evaluation.detection.inspection import read_detections
from drsn_jax.evaluation.metrics.scorers import Metric
from drsn_jax.evaluation.scoring.scores import Case, ImageScore
from drsn_jax.system.panels import Box, make_panel, save_png
from drsn_jax.system.paths import AnyPath

Image = UInt8[np.ndarray, "h w 3"]


PANEL_KINDS = ("", ".detections")


def panel_path(name: str, *, kind: str = "") -> str:
    """Return the path of an image's panel, relative to the report; folders in the name become part of the file name."""
    return f"panels/{name.replace('/', '__')}{kind}.png"


class Illustrator:
    """A callback for each score: draws blurred | restored | other methods | sharp of the named images, with and without detections."""

    def __init__(self, output: AnyPath, *, names: Sequence[str], metric: Metric, zoom_box: Literal["auto"] | Box):
        """Set `metric`, shown under the pictures, and `zoom_box` as in `make_panel`."""
        self._output, self._names, self._metric = output, names, metric
        self._zoom_box: Literal["auto"] | Box = zoom_box

    def __call__(self, score: ImageScore, case: Case, restored: Image) -> None:
        """Draw the panel if this image is among the named ones."""
        if score.name not in self._names:
            return
        images = {"blurred": case.blurred, "restored": restored, **case.others}
        values = [self._metric.format(one[self._metric.name]) for one in score.scores.values()]
        unit = " dB" if self._metric.name == "psnr" else f" {self._metric.title}"
        labels = [f"{name} {value}{unit}" for name, value in zip(images, values, strict=True)]
        if case.reference is not None:
            images["sharp"] = case.reference
            labels.append("sharp")
        panel = make_panel(list(images.values()), labels=labels, zoom_box=self._zoom_box)
        save_png(panel, self._output / panel_path(score.name))
        if found := score.findings.get("detections"):
            self._draw_detections(score.name, images, found)

    def _draw_detections(self, name: str, images: dict[str, Image], found: dict[str, list]) -> None:
        detections = read_detections(found)
        ordered = [detections["input" if version == "blurred" else version] for version in images]
        panel = make_detection_panel(list(images.values()), ordered, names=list(images))
        save_png(panel, self._output / panel_path(name, kind=".detections"))

    def files(self) -> list[str]:
        """List the existing panels, relative to the report, including those of an interrupted run."""
        paths = [panel_path(name, kind=kind) for name in self._names for kind in PANEL_KINDS]
        return [path for path in paths if (self._output / path).exists()]
