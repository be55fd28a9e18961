"""ONNX detectors of a few numbers, for tests: what they find is written into them. Needs the `onnx` package."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)


def count_cells(height: int, width: int) -> int:
    return sum((height // stride) * (width // stride) for stride in STRIDES)


def yolox_rows(objects: list[tuple], *, size: tuple[int, int], classes: int) -> np.ndarray:
    """Undecoded rows [N, 5 + classes] for objects (centre x, centre y, width, height, label, confidence) in pixels of the input.

    Each sits in the row of the cell of stride 16 that its centre lies in; its objectness is the root of its confidence.
    """
    height, width = size
    rows = np.zeros((count_cells(height, width), 5 + classes), np.float32)
    for x, y, w, h, label, confidence in objects:
        column, row = int(x // 16), int(y // 16)
        index = (height // 8) * (width // 8) + row * (width // 16) + column
        rows[index, :5] = x / 16 - column, y / 16 - row, np.log(w / 16), np.log(h / 16), confidence**0.5
        rows[index, 5 + label] = confidence**0.5
    return rows


def yolov8_columns(objects: list[tuple], *, size: tuple[int, int], classes: int) -> np.ndarray:
    """Return the same objects as columns [4 + classes, N], in the first ones."""
    columns = np.zeros((4 + classes, count_cells(*size)), np.float32)
    for index, (x, y, w, h, label, confidence) in enumerate(objects):
        columns[:4, index] = x, y, w, h
        columns[4 + label, index] = confidence
    return columns


def write_constant(
    path: Path, output: np.ndarray, *, shape=None, output_shape=None, metadata=None, dtype=TensorProto.FLOAT, outputs: int = 1
) -> Path:
    """Write a model with the constant `output` [1 ...]; the file states the `shape` of its input and `output_shape`."""
    constant = numpy_helper.from_array(output[None], "value")
    nodes = [helper.make_node("Constant", [], [f"output{i}"], value=constant) for i in range(outputs)]
    found = [helper.make_tensor_value_info(f"output{i}", TensorProto.FLOAT, output_shape or [1, *output.shape]) for i in range(outputs)]
    return _save(path, nodes, [helper.make_tensor_value_info("images", dtype, shape)], found, metadata)


def write_channel_means(path: Path, *, size: tuple[int, int], layout: str, scale: float) -> Path:
    """Write a model with one box of 16x16 at (24, 24). Its three class scores are `scale` times the means of the input's channels."""
    box = (24, 24, 16, 16, 0, 0.0)
    encode = yolox_rows if layout == "yolox" else yolov8_columns
    base = encode([box], size=size, classes=3)
    index = (size[0] // 8) * (size[1] // 8) + size[1] // 16 + 1 if layout == "yolox" else 0
    lift = np.zeros((3, *base.shape), np.float32)
    for channel in range(3):
        lift[(channel, index, 5 + channel) if layout == "yolox" else (channel, 4 + channel, index)] = scale
    if layout == "yolox":
        base[index, 4] = 1
    nodes = [
        helper.make_node("Constant", [], ["lift"], value=numpy_helper.from_array(lift.reshape(3, -1), "lift")),
        helper.make_node("Constant", [], ["base"], value=numpy_helper.from_array(base[None], "base")),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1, *base.shape]), "shape")),
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "lift"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["scores"]),
        helper.make_node("Add", ["base", "scores"], ["output"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *size])
    return _save(path, nodes, [images], [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, *base.shape])], None)


def _save(path: Path, nodes, inputs, outputs, metadata) -> Path:
    graph = helper.make_graph(nodes, "detector", inputs, outputs)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return path
