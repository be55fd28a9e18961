"""Detectors whose answers are written into them, in both layouts; what letterboxes do to boxes; a real detector where one is at hand."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drsn_jax.data.pairs.folders import read_rgb
from drsn_jax.evaluation.detection.detections import compare_detections
from drsn_jax.evaluation.detection.detector import open_detector
from drsn_jax.evaluation.detection.yolo import COCO_NAMES, decode_yolox, draw_letterbox, fit_letterbox, to_canvas, to_image
from drsn_jax.system.errors import InputError

pytest.importorskip("onnxruntime", reason="onnxruntime runs detectors: pip install 'drsn-jax[detection]'")
pytest.importorskip("onnx", reason="onnx writes the models of these tests")
import tiny_detector
from onnx import TensorProto

SIZE = (64, 96)
SHAPE = [1, 3, *SIZE]
# Centre, sides, class, confidence, in pixels of the input.
OBJECTS = [
    (40, 20, 32, 16, 2, 0.9),
    (41, 36, 32, 24, 2, 0.64),
    (57, 36, 32, 24, 2, 0.49),  # overlaps the one above by a third
    (40, 4, 32, 16, 0, 0.2),
    (72, 50, 20, 8, 1, 0.36),
]
ENCODE = {"yolox": tiny_detector.yolox_rows, "yolov8": tiny_detector.yolov8_columns}
SHARED = Path(__file__).parents[3] / "shared" / "data"

sides = st.integers(1, 700)
canvases = st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda cells: (32 * cells[0], 32 * cells[1]))


def write(tmp_path, layout, objects=OBJECTS, classes=3, **options):
    output = ENCODE[layout](objects, size=SIZE, classes=classes)
    return tiny_detector.write_constant(tmp_path / f"{layout}.onnx", output, **{"shape": SHAPE, **options})


def blank(height, width, colour=(90, 90, 90)):
    return np.full((height, width, 3), colour, np.uint8)


def test_yolox_rows_by_hand():
    """64x96 has 8 * 12 cells of stride 8, then 4 * 6 of stride 16: row 104 is its second row, third column."""
    rows = np.zeros((126, 7), np.float32)
    rows[104] = [0.5, 0.25, np.log(2), 0, 0.5, 0.1, 0.8]
    rows[125] = [0, 0, 0, 0, 1, 0, 0]
    boxes, scores = decode_yolox(rows, SIZE)
    np.testing.assert_allclose(boxes[104], [40 - 16, 20 - 8, 40 + 16, 20 + 8], rtol=1e-6)
    np.testing.assert_allclose(scores[104], [0.05, 0.4], rtol=1e-6)
    np.testing.assert_allclose(boxes[125], [64 - 16, 32 - 16, 64 + 16, 32 + 16], rtol=1e-6)  # third column, second row of stride 32


@pytest.mark.parametrize("layout", ENCODE)
def test_objects_come_out_in_pixels_of_the_image(tmp_path, layout):
    """An image of twice the input's size: every box doubles; one of the five is too unsure, none is suppressed at this overlap."""
    detector = open_detector(write(tmp_path, layout), names=("cat", "dog", "kite"))
    found = detector(blank(128, 192))
    assert detector.layout == layout
    assert [(x.name, x.label) for x in found] == [("kite", 2), ("kite", 2), ("kite", 2), ("dog", 1)]
    np.testing.assert_allclose([x.confidence for x in found], [0.9, 0.64, 0.49, 0.36], rtol=1e-6)
    expected = [(48, 24, 112, 56), (50, 48, 114, 96), (82, 48, 146, 96), (124, 92, 164, 108)]
    np.testing.assert_allclose([x.box for x in found], expected, atol=1e-4)


def test_both_layouts_find_the_same(tmp_path):
    """On an image that fills the input, where the letterboxes agree."""
    first, second = (open_detector(write(tmp_path, layout), confidence=0.1, iou=0.3)(blank(*SIZE)) for layout in ENCODE)
    assert [x.name for x in first] == [x.name for x in second] == ["class 2", "class 2", "class 1", "class 0"]
    np.testing.assert_allclose([x.box for x in first], [x.box for x in second], atol=1e-4)
    np.testing.assert_allclose([x.confidence for x in first], [x.confidence for x in second], rtol=1e-5)


@pytest.mark.parametrize(("layout", "left"), [("yolox", 24), ("yolov8", 8)])
def test_letterboxes_of_the_families(tmp_path, layout, left):
    """64x64 inside 64x96: YOLOX pads on the right, YOLOv8 16 pixels on each side. Boxes end where the image does."""
    found = open_detector(write(tmp_path, layout))(blank(64, 64))
    np.testing.assert_allclose(found[0].box, (left, 12, left + 32, 28), atol=1e-4)
    assert all(0 <= x.box[0] < x.box[2] <= 64 and 0 <= x.box[1] < x.box[3] <= 64 for x in found)


def test_boxes_in_the_padding_are_none(tmp_path):
    assert len(open_detector(write(tmp_path, "yolox"))(blank(64, 96))) == 4
    assert len(open_detector(write(tmp_path, "yolox"))(blank(64, 42))) == 3  # the dog begins at column 62
    assert open_detector(write(tmp_path, "yolox"), confidence=1.0)(blank(64, 96)) == []


@pytest.mark.parametrize(("layout", "scale", "best"), [("yolox", 1 / 255, 2), ("yolov8", 1.0, 0)])
def test_channels_and_ranges_of_the_families(tmp_path, layout, scale, best):
    """A red image: YOLOX sees 255 in its third channel (BGR), YOLOv8 1 in its first (RGB)."""
    path = tiny_detector.write_channel_means(tmp_path / "means.onnx", size=SIZE, layout=layout, scale=scale)
    (found,) = open_detector(path)(blank(*SIZE, colour=(255, 0, 0)))
    assert (found.label, found.confidence) == (best, pytest.approx(1.0))


@pytest.mark.parametrize(("layout", "scale"), [("yolox", 1 / 255), ("yolov8", 1.0)])
def test_padding_is_grey(tmp_path, layout, scale):
    path = tiny_detector.write_channel_means(tmp_path / "means.onnx", size=SIZE, layout=layout, scale=scale)
    (found,) = open_detector(path)(blank(64, 48, colour=(255, 255, 255)))
    assert found.confidence == pytest.approx((255 + 114) / 510, rel=1e-5)


def test_names_come_from_the_file(tmp_path):
    names = {0: "Katze", 1: "Hund", 2: "Drachen"}
    path = write(tmp_path, "yolov8", metadata={"names": str(names), "task": "detect"})
    assert open_detector(path).names == tuple(names.values())
    assert open_detector(path, names=("a", "b", "c")).names == ("a", "b", "c")
    with pytest.raises(InputError, match=r"2 names .* 3 classes"):
        open_detector(path, names=("a", "b"))


@pytest.mark.parametrize("stored", ["__import__('os').abort()", "{0: 'a'}", "{1: 'a', 2: 'b', 3: 'c'}", "7", "{"])
def test_names_that_are_none_are_left(tmp_path, stored):
    assert open_detector(write(tmp_path, "yolov8", metadata={"names": stored})).names == ("class 0", "class 1", "class 2")


def test_eighty_classes_are_those_of_coco(tmp_path):
    assert open_detector(write(tmp_path, "yolox", classes=80)).names == COCO_NAMES
    assert (len(set(COCO_NAMES)), COCO_NAMES[0], COCO_NAMES[24], COCO_NAMES[79]) == (80, "person", "backpack", "toothbrush")


def test_free_shapes_are_taken_at_640(tmp_path):
    """The file only names its axes: what comes out says which layout it is."""
    columns = tiny_detector.yolov8_columns([(320, 320, 64, 64, 1, 0.8)], size=(640, 640), classes=2)
    shapes = {"shape": ["batch", 3, "height", "width"], "output_shape": ["batch", "rows", "columns"]}
    detector = open_detector(tiny_detector.write_constant(tmp_path / "free.onnx", columns, **shapes))
    (found,) = detector(blank(320, 320))
    assert (detector.size, detector.layout) == ((640, 640), "yolov8")
    np.testing.assert_allclose(found.box, (144, 144, 176, 176))


def test_reports_say_which_detector(tmp_path):
    path = write(tmp_path, "yolox")
    told = json.loads(json.dumps(open_detector(path, confidence=0.3).describe()))
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (told["layout"], told["size"], told["confidence"], told["classes"]) == ("yolox", [64, 96], 0.3, 3)


def decoded_rows():
    rows = tiny_detector.yolox_rows([], size=SIZE, classes=3)
    rows[:, 0] = np.linspace(0, 96, len(rows))
    return rows


NO_DETECTORS = {
    "classifier": (np.zeros(1000, np.float32), {}, r"\[1, 1000\]"),
    "yolov5, three anchors a cell": (np.zeros((3 * 126, 8), np.float32), {}, r"\[1, 378, 8\]"),
    "with NMS inside": (np.zeros((300, 6), np.float32), {}, r"\[1, 300, 6\]"),
    "decoded": (decoded_rows(), {}, "decoded boxes"),
    "two outputs": (np.zeros((7, 126), np.float32), {"outputs": 2}, r"output1 tensor\(float\) \[1, 7, 126\]"),
    "poses": (np.zeros((56, 126), np.float32), {"metadata": {"task": "pose"}}, "task pose"),
    "bytes": (np.zeros((7, 126), np.float32), {"dtype": TensorProto.UINT8}, r"tensor\(uint8\)"),
    "grey": (np.zeros((7, 126), np.float32), {"shape": [1, 1, *SIZE]}, r"\[1, 1, 64, 96\]"),
    "batches of two": (np.zeros((7, 126), np.float32), {"shape": [2, 3, *SIZE]}, r"\[2, 3, 64, 96\]"),
    "no multiple of 32": (np.zeros((7, 126), np.float32), {"shape": [1, 3, 64, 100]}, "multiples of 32"),
    "rows": (np.zeros((7, 126), np.float32), {"shape": [1, 3]}, r"\[1, 3\]"),
}


@pytest.mark.parametrize(("output", "options", "says"), NO_DETECTORS.values(), ids=NO_DETECTORS)
def test_other_layouts_are_refused(tmp_path, output, options, says):
    path = tiny_detector.write_constant(tmp_path / "other.onnx", output, **{"shape": SHAPE, **options})
    with pytest.raises(InputError, match=says) as error:
        open_detector(path)
    assert "YOLOX" in str(error.value)
    assert "YOLOv8" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_models(tmp_path, capfd):
    whole = write(tmp_path, "yolox").read_bytes()
    for name, content in {"empty": b"", "text": b"no model", "cut": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} .*YOLOX") as error:
            open_detector(tmp_path / name)
        assert "\n" not in str(error.value)
    for missing in (tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(InputError, match="no file"):
            open_detector(missing)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("unchecked")
def test_shares_and_arrays_are_checked(tmp_path):
    path = write(tmp_path, "yolox")
    for option in ("confidence", "iou"):
        with pytest.raises(InputError, match=f"{option}=25.0"):
            open_detector(path, **{option: 25.0})
    with pytest.raises(TypeError, match="uint8"):
        open_detector(path)(np.zeros((64, 96, 3), np.float32))


def test_without_onnxruntime(tmp_path, monkeypatch):
    path = write(tmp_path, "yolox")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"drsn-jax\[detection\]"):
        open_detector(path)


@given(sides, sides, canvases, st.booleans(), st.lists(st.floats(0, 1), min_size=4, max_size=4))
@example(1, 700, (32, 640), True, [0.0, 0.0, 1.0, 1.0])
def test_boxes_return_from_the_letterbox(height, width, canvas, centred, shares):
    """Any box of the image lies inside the fitted part of the canvas, and comes back as it was; sides keep their ratio to a pixel."""
    fit = fit_letterbox(height, width, canvas=canvas, centred=centred)
    (left, right), (top, bottom) = sorted(shares[:2]), sorted(shares[2:])
    box = np.array([[left * width, top * height, right * width, bottom * height]])
    drawn = to_canvas(box, fit)
    ends = (fit.left, fit.top), (fit.left + fit.fitted_width, fit.top + fit.fitted_height)
    assert (drawn.reshape(2, 2) >= np.array(ends[0]) - 1e-6).all()
    assert (drawn.reshape(2, 2) <= np.array(ends[1]) + 1e-6).all()
    np.testing.assert_allclose(to_image(drawn, fit), box, atol=1e-6 * max(height, width))
    assert min(ends[0]) >= 0
    assert (ends[1][1], ends[1][0]) <= canvas or (ends[1][0] <= canvas[1] and ends[1][1] <= canvas[0])
    scale = min(canvas[0] / height, canvas[1] / width)
    assert abs(fit.fitted_height - height * scale) <= 1
    assert abs(fit.fitted_width - width * scale) <= 1


@pytest.mark.parametrize("size", [(97, 143), (720, 1280), (33, 31), (40, 96)])
def test_drawing_agrees_with_opencv(rng, size):
    """The families' own preparation, with OpenCV: linear, without antialiasing."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is the reference here")
    coarse = rng.integers(0, 256, (size[0] // 4 + 1, size[1] // 4 + 1, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    canvas = (160, 224)
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    corner = np.full((*canvas, 3), 114, np.uint8)
    resized = cv2.resize(image, (int(size[1] * scale), int(size[0] * scale)), interpolation=cv2.INTER_LINEAR)
    corner[: resized.shape[0], : resized.shape[1]] = resized
    resized = cv2.resize(image, (round(size[1] * scale), round(size[0] * scale)), interpolation=cv2.INTER_LINEAR)
    down, across = (canvas[0] - resized.shape[0]) / 2, (canvas[1] - resized.shape[1]) / 2
    borders = round(down - 0.1), round(down + 0.1), round(across - 0.1), round(across + 0.1)
    middle = cv2.copyMakeBorder(resized, *borders, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    for centred, expected in ((False, corner), (True, middle)):
        fit = fit_letterbox(*size, canvas=canvas, centred=centred)
        difference = np.abs(draw_letterbox(image, fit, canvas=canvas).astype(int) - expected)
        assert difference.max() <= 2
        assert difference.mean() < 0.5


@pytest.mark.skipif(not (SHARED / "detector").is_dir(), reason="../shared/data/detector holds the real detector")
def test_a_real_detector_finds_the_people():
    """Ten players on a court, sharp and blurred by the camera: people are found, fewer of them when blurred."""
    detector = open_detector(SHARED / "detector" / "yolox_nano_416_coco.onnx")
    name = "GOPR0477_11_00_st_frame-659_n_avg-8.png"
    sharp, blurred = (detector(read_rgb(SHARED / "gopro_train_scenes" / kind / name)) for kind in ("sharp", "blur"))
    people = [found for found in sharp if found.name == "person"]
    assert len(people) >= 7
    assert max(found.confidence for found in people) > 0.8
    compared = compare_detections(sharp, blurred)
    assert 0.5 < compared["recall"] < 1
    assert compared["matched"] <= compared["count"] < len(sharp)
