"""Object detectors of the YOLO family from ONNX files, through onnxruntime (pip install 'drsn-jax[detection]')."""

import ast
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from drsn_jax.evaluation.detection.detections import Detection, suppress_overlaps
from drsn_jax.evaluation.detection.yolo import (
    COCO_NAMES,
    STRIDES,
    count_cells,
    decode_yolov8,
    decode_yolox,
    draw_letterbox,
    fit_letterbox,
    to_image,
)
from drsn_jax.system.errors import InputError

_FREE_SIZE = 640  # the side for models of any size: the training size of both families
_LAYOUTS = "YOLOX's (not decoded, output [1, N, 5 + classes]) and YOLOv8's (without NMS, output [1, 4 + classes, N])"


@dataclass(frozen=True)
class Detector:
    """A detector: uint8 [h w 3] -> objects. `layout` is yolox or yolov8, `size` the input (height, width), `sha256` that of the file."""

    path: Path
    sha256: str
    layout: str
    size: tuple[int, int]
    names: tuple[str, ...]
    confidence: float
    iou: float
    session: Any

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> list[Detection]:
        """Detect the objects of an RGB image of any size, most confident first; boxes in pixels, clipped. TypeError for other arrays."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise TypeError(f"A detector takes uint8 images of shape [h w 3]; got {image.dtype} {list(image.shape)}.")
        fit = fit_letterbox(*image.shape[:2], canvas=self.size, centred=self.layout == "yolov8")
        boxes, scores = self._run(draw_letterbox(image, fit, canvas=self.size))
        labels, confidences = scores.argmax(axis=1), scores.max(axis=1)  # one class per box
        likely = np.flatnonzero(confidences >= self.confidence)
        kept = likely[suppress_overlaps(boxes[likely], labels[likely], confidences[likely], iou=self.iou)]
        return [
            Detection((left, top, right, bottom), int(labels[index]), self.names[labels[index]], float(confidences[index]))
            for (left, top, right, bottom), index in zip(to_image(boxes[kept], fit).tolist(), kept, strict=True)
            if left < right and top < bottom  # some boxes lie completely in the padding
        ]

    def describe(self) -> dict[str, Any]:
        """Describe the detector for reports, ready for JSON."""
        options = {"confidence": self.confidence, "iou": self.iou, "classes": len(self.names), "provider": self.session.get_providers()[0]}
        return {"path": str(self.path), "sha256": self.sha256, "layout": self.layout, "size": list(self.size), **options}

    def _run(self, canvas: UInt8[np.ndarray, "h w 3"]) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n k"]]:
        if self.layout == "yolox":
            return decode_yolox(_infer(self.session, canvas[..., ::-1].astype(np.float32))[0], self.size)  # BGR, 0..255
        return decode_yolov8(_infer(self.session, canvas.astype(np.float32) / 255)[0], self.size)


def open_detector(path: Path, *, names: Sequence[str] | None = None, confidence: float = 0.25, iou: float = 0.45) -> Detector:
    """Load a YOLOX or YOLOv8-type detector. The layout is recognised from inputs and outputs by one run on a grey image.

    `names` are the classes; the default is those in the file (Ultralytics'), COCO's for 80 classes, else 'class 7'. Objects with at least
    `confidence` count; of two of a class that overlap by more than `iou` the more confident stays. Runs on a GPU if onnxruntime supports
    it, else on the CPU. Raises InputError for a missing or damaged file, another layout, names that do not fit the model, and shares
    outside 0 to 1. Raises it also if onnxruntime is not installed.
    """
    path = Path(path)
    for option, share in {"confidence": confidence, "iou": iou}.items():
        if not 0 <= share <= 1:
            raise InputError(f"{option}={share} is not a share; give a number from 0 to 1.")
    session = _open_session(path)
    size = _input_size(session, path)
    try:  # run the model for its output shape, because the file may only name the axes
        output = _infer(session, np.full((*size, 3), 0.5, np.float32))
    except Exception as error:
        raise InputError(f"{path} does not run on an image of {size[1]}x{size[0]}: {_first_line(error)}") from None
    layout, classes = _recognise(session, path, size, output)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Detector(path, sha256, layout, size, _class_names(session, path, classes, names), confidence, iou, session)


def _open_session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("Detection needs onnxruntime: pip install 'drsn-jax[detection]'.") from None
    if not path.is_file():
        raise InputError(f"There is no file {path}; give a YOLOX or YOLOv8-type detector in ONNX format.")
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(4)  # errors are raised as well
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options.intra_op_num_threads, options.inter_op_num_threads = cores, 1  # onnxruntime's default counts all cores
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # a dozen classes without a common base
        reason = _first_line(error)
        raise InputError(f"{path} is not an ONNX model that onnxruntime can load ({reason}); give a YOLOX or YOLOv8-type one.") from None


def _input_size(session: Any, path: Path) -> tuple[int, int]:
    """Return height and width of the only input, [1 3 h w] of floats; free sides become `_FREE_SIZE`."""
    inputs = session.get_inputs()
    shape = [None if not isinstance(side, int) else side for side in inputs[0].shape] if len(inputs) == 1 else []
    if len(shape) != 4 or shape[0] not in (None, 1) or shape[1] not in (None, 3) or inputs[0].type != "tensor(float)":
        raise _unknown_layout(session, path)
    height, width = (side or _FREE_SIZE for side in shape[2:])
    if height % STRIDES[-1] or width % STRIDES[-1]:
        raise _unknown_layout(session, path)
    return height, width


def _recognise(session: Any, path: Path, size: tuple[int, int], output: Float[np.ndarray, "..."]) -> tuple[str, int]:
    """Return layout and number of classes; InputError if the output belongs to neither family."""
    task = _metadata(session).get("task", "detect")  # Ultralytics' models for poses and rotated boxes have the shape of a detector
    if len(session.get_outputs()) != 1 or output.ndim != 3 or len(output) != 1 or task != "detect":
        raise _unknown_layout(session, path)
    cells, (rows, columns) = count_cells(size), output.shape[1:]
    # Offsets are near their cell, but centres are spread over the image.
    decoded = bool(abs(np.median(output[..., 0])) > size[1] / 8)
    if rows == cells and columns > 5 and not decoded:
        return "yolox", columns - 5
    if columns == cells and rows > 4:
        return "yolov8", rows - 4
    raise _unknown_layout(session, path, decoded=rows == cells and decoded)


def _unknown_layout(session: Any, path: Path, *, decoded: bool = False) -> InputError:
    inputs, outputs = (
        ", ".join(f"{side.name} {side.type} [{', '.join(map(str, side.shape))}]" for side in sides)
        for sides in (session.get_inputs(), session.get_outputs())
    )
    task = _metadata(session).get("task")
    extra = f" for the task {task}" * bool(task) + " of decoded boxes" * decoded
    return InputError(
        f"{path} takes {inputs} and gives {outputs}{extra}; the known layouts are {_LAYOUTS}, each with one input [1, 3, H, W] of floats"
        " whose sides are multiples of 32: export the detector in one of them."
    )


def _class_names(session: Any, path: Path, classes: int, given: Sequence[str] | None) -> tuple[str, ...]:
    if given is not None:
        if len(given) != classes:
            raise InputError(f"{len(given)} names were given for the {classes} classes of {path}; give one for each.")
        return tuple(given)
    try:
        stored = ast.literal_eval(_metadata(session)["names"])
        return tuple(str(stored[index]) for index in range(len(stored))) if len(stored) == classes else _default_names(classes)
    except (KeyError, TypeError, ValueError, SyntaxError):  # missing, or not in Ultralytics' format
        return _default_names(classes)


def _default_names(classes: int) -> tuple[str, ...]:
    return COCO_NAMES if classes == len(COCO_NAMES) else tuple(f"class {index}" for index in range(classes))


def _metadata(session: Any) -> dict[str, str]:
    return session.get_modelmeta().custom_metadata_map


def _infer(session: Any, values: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "..."]:
    batch = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
