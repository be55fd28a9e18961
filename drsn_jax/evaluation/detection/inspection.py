"""Inspection of the versions of an image by a detector (paper, section 5.2)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from drsn_jax.evaluation.detection.detections import SHARP, Detection, summarise_detections
from drsn_jax.evaluation.detection.detector import open_detector
from drsn_jax.evaluation.scoring.scores import ImageScore

Image = UInt8[np.ndarray, "h w 3"]


def make_inspect_fn(detector: Path | None) -> tuple[Callable[[Mapping[str, Image]], dict[str, Any]] | None, dict[str, Any] | None]:
    """Make the `inspect_fn` of `score_images` for an ONNX detector, and its description for reports; (None, None) without a detector.

    Its findings are ready for JSON: {'detections': {version: [box, label, name, confidence as a dict]}}. Raises InputError as
    `open_detector`.
    """
    if detector is None:
        return None, None
    detect_fn = open_detector(detector)

    def inspect(versions: Mapping[str, Image]) -> dict[str, Any]:
        return {"detections": {version: [one._asdict() for one in detect_fn(image)] for version, image in versions.items()}}

    return inspect, detect_fn.describe()


def read_detections(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Detection]]:
    """Convert detections by version back from JSON."""
    return {version: [Detection(**one) for one in some] for version, some in found.items()}


def summarise_findings(scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Return {'detection': figures of all images together}, or nothing without a detector."""
    found = [read_detections(score.findings["detections"]) for score in scores if "detections" in score.findings]
    if not found:
        return {}
    summary = summarise_detections([{SHARP: [], **versions} for versions in found])
    if SHARP not in found[0]:
        summary["versions"].pop(SHARP)
        summary["note"] = "There are no sharp images to find objects in, so there is no recall."
    return {"detection": summary}
