"""Finding, matching, reading and checking pairs of image files."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from drsn_jax.data.images.rgb import fit_frame, fitted_size, plain_format, smallest_size
from drsn_jax.data.pairs.crops import CropLoader
from drsn_jax.data.pairs.folders import Pair, check_pairs, find_pairs, image_size, match_folders, read_rgb
from drsn_jax.system.errors import InputError


def _save(path, size=(8, 12), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def _gopro(root, scenes=("GOPR01", "GOPR02"), frames=("000001", "000002"), folders=("blur", "blur_gamma", "sharp")):
    for scene in scenes:
        for folder in folders:
            for frame in frames:
                _save(root / scene / folder / f"{frame}.png")
    return root


def _refused(function, *args, **kwargs):
    """Return the message of the expected InputError, which is always one line."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Layouts


def test_gopro_layout_is_sorted_and_named_by_scene(tmp_path):
    pairs = find_pairs(_gopro(tmp_path))
    assert [pair.name for pair in pairs] == ["GOPR01/000001", "GOPR01/000002", "GOPR02/000001", "GOPR02/000002"]
    assert pairs[0] == Pair("GOPR01/000001", tmp_path / "GOPR01/blur/000001.png", tmp_path / "GOPR01/sharp/000001.png")


def test_blur_gamma_is_an_explicit_choice(tmp_path):
    pairs = find_pairs(_gopro(tmp_path), blur_folder="blur_gamma")
    assert {pair.blurred.parent.name for pair in pairs} == {"blur_gamma"}


def test_a_split_or_a_scene_may_be_the_root(tmp_path):
    _gopro(tmp_path / "train")
    assert len(find_pairs(tmp_path / "train")) == 4
    assert find_pairs(tmp_path)[0].name == "train/GOPR01/000001"
    assert [pair.name for pair in find_pairs(tmp_path / "train/GOPR02")] == ["000001", "000002"]


@pytest.mark.parametrize("folders", [("blur", "sharp"), ("input", "target"), ("A", "B")])
def test_plain_layouts_with_suffixes_that_differ(tmp_path, folders):
    for name in ("b.jpg", "deep/a.v2.jpg"):
        _save(tmp_path / folders[0] / name)
        _save((tmp_path / folders[1] / name).with_suffix(".PNG"))
    (tmp_path / folders[0] / "notes.txt").write_text("not an image")
    (tmp_path / folders[1] / "._b.png").write_bytes(b"macOS")
    pairs = find_pairs(tmp_path)
    assert [(pair.name, pair.blurred.suffix, pair.sharp.suffix) for pair in pairs] == [
        ("b", ".jpg", ".PNG"),
        ("deep/a.v2", ".jpg", ".PNG"),
    ]


def test_both_splits_must_be_chosen_between(tmp_path):
    _gopro(tmp_path / "train")
    _gopro(tmp_path / "test")
    message = _refused(find_pairs, tmp_path)
    assert "choose one" in message
    assert str(tmp_path / "train") in message


@pytest.mark.parametrize("scenes", [("GOPR01",), (".",)])
def test_wrong_blur_folder_names_what_is_there(tmp_path, scenes):
    message = _refused(find_pairs, _gopro(tmp_path, scenes), blur_folder="blurry")
    assert "blurry" in message
    assert "blur, blur_gamma, sharp" in message


def test_blur_folder_refused_where_it_means_nothing(tmp_path):
    _save(tmp_path / "input/a.png")
    _save(tmp_path / "target/a.png")
    assert "input, target" in _refused(find_pairs, tmp_path, blur_folder="blur_gamma")
    assert "sharp images" in _refused(find_pairs, _gopro(tmp_path / "gopro"), blur_folder="sharp")


def test_scene_without_sharp_folder_is_reported(tmp_path):
    _gopro(tmp_path)
    _gopro(tmp_path, scenes=("GOPR03",), folders=("blur",))
    message = _refused(find_pairs, tmp_path)
    assert "GOPR03 has no folder sharp" in message


def test_unpaired_names_are_counted_and_shown(tmp_path):
    for number in range(5):
        _save(tmp_path / f"blur/b{number}.png")
    _save(tmp_path / "sharp/b4.png")
    _save(tmp_path / "sharp/extra.png")
    message = _refused(find_pairs, tmp_path)
    assert "4 (b0, b1, b2, ...)" in message
    assert "1 (extra)" in message


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("blur/a.png", "blur/a.jpg", "sharp/a.png"):
        _save(tmp_path / name)
    assert "same name except for the suffix" in _refused(find_pairs, tmp_path)


def test_roots_that_cannot_be(tmp_path):
    assert "does not exist" in _refused(find_pairs, tmp_path / "missing")
    assert "is a file" in _refused(find_pairs, _save(tmp_path / "image.png"))
    (tmp_path / "empty").mkdir()
    assert "<scene>/{blur,sharp}" in _refused(find_pairs, tmp_path / "empty")
    (tmp_path / "hollow/blur").mkdir(parents=True)
    (tmp_path / "hollow/sharp").mkdir()
    assert "No image found" in _refused(find_pairs, tmp_path / "hollow")
    _save(tmp_path / "flat/a.png")
    assert "input/ + target/" in _refused(find_pairs, tmp_path / "flat")


# match_folders


def test_match_folders_by_relative_name(tmp_path):
    _save(tmp_path / "restored/deep/a.jpg")
    _save(tmp_path / "truth/deep/a.png")
    assert match_folders(tmp_path / "restored", tmp_path / "truth") == [
        Pair("deep/a", tmp_path / "restored/deep/a.jpg", tmp_path / "truth/deep/a.png")
    ]
    assert "lack" in _refused(match_folders, tmp_path / "restored/deep", tmp_path / "truth")


def test_match_folders_understands_scenes(tmp_path):
    root = _gopro(tmp_path / "gopro")
    expected = [pair.sharp for pair in find_pairs(root)]
    for name in ("with_side/GOPR0{}/blur/00000{}.png", "without_side/GOPR0{}/00000{}.png"):
        for scene, frame in ((1, 1), (1, 2), (2, 1), (2, 2)):
            _save(tmp_path / name.format(scene, frame))
    assert match_folders(root, root) == find_pairs(root)
    assert [pair.sharp for pair in match_folders(tmp_path / "with_side", root)] == expected
    assert [pair.sharp for pair in match_folders(tmp_path / "without_side", root)] == expected
    scene = root / "GOPR01"
    assert match_folders(scene / "blur", scene / "sharp") == find_pairs(scene)


# check_pairs


def test_check_pairs_names_the_file(tmp_path):
    _save(tmp_path / "blur/a.png", (8, 12))
    _save(tmp_path / "sharp/a.png", (8, 12))
    pairs = find_pairs(tmp_path)
    check_pairs(pairs)
    check_pairs(pairs, min_size=8)
    message = _refused(check_pairs, pairs, min_size=9)
    assert "blur/a.png is 8x12" in message
    assert "--config.crop_size" in message
    _save(tmp_path / "sharp/a.png", (12, 8))
    assert "8x12" in (message := _refused(check_pairs, pairs))
    assert "12x8" in message
    (tmp_path / "sharp/a.png").write_text("text")
    assert "sharp/a.png' is not an image" in _refused(check_pairs, pairs)
    assert "at least one" in _refused(check_pairs, [])


# Reading


def test_read_rgb_png_is_exact(tmp_path, rng):
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), image)
    assert image_size(tmp_path / "a.png") == (5, 7)


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", np.uint8), ("a.png", np.uint16), ("a.tif", np.uint8), ("a.tif", np.uint16), ("a.pgm", np.uint16)]
)
def test_read_rgb_grey(tmp_path, rng, name, dtype):
    grey = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    Image.fromarray(grey.astype(dtype) * (1 if dtype == np.uint8 else 257)).save(tmp_path / name)
    np.testing.assert_array_equal(read_rgb(tmp_path / name), np.stack([grey] * 3, axis=-1))


def test_read_rgb_palette_alpha_and_one_bit(tmp_path, rng):
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).quantize(6)
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "p.png"), np.asarray(image.convert("RGB")))
    rgba = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "rgba.png"), rgba[..., :3])
    Image.fromarray(rgba[..., 0] > 127).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "1.png")[..., 2], np.where(rgba[..., 0] > 127, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    grey = np.zeros((16, 32), np.uint8)
    grey[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(grey).convert("RGB").save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    upright = {1: grey, 3: grey[::-1, ::-1], 6: np.rot90(grey, -1), 7: grey[::-1, ::-1].T}[orientation]
    assert image_size(path) == upright.shape
    np.testing.assert_array_equal(read_rgb(path)[..., 0], upright)
    # TensorFlow's decoders ignore orientation: nothing turned may go to them (a PNG with EXIF never does).
    assert plain_format(path.read_bytes()) == ("JPEG" if suffix == "jpg" and orientation == 1 else None)


def test_unreadable_files_are_named(tmp_path, photograph):
    Image.fromarray(photograph).save(tmp_path / "whole.png")
    Image.fromarray(photograph).save(tmp_path / "whole.jpg")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("this is text")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    for suffix in ("png", "jpg"):
        contents = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(contents[: len(contents) // 2])
    assert "does not exist" in _refused(read_rgb, tmp_path / "missing.png")
    assert "is a folder" in _refused(read_rgb, tmp_path)
    assert "empty.png' is empty (0 bytes)" in _refused(read_rgb, tmp_path / "empty.png")
    assert "text.png' is not an image" in _refused(read_rgb, tmp_path / "text.png")
    assert "cut.png' is damaged or cut short" in _refused(read_rgb, tmp_path / "cut.png")
    assert "cut.jpg' is damaged or cut short" in _refused(read_rgb, tmp_path / "cut.jpg")
    assert "floating-point" in _refused(read_rgb, tmp_path / "float.tif")
    assert image_size(tmp_path / "cut.png") == (512, 512)
    assert "is a folder" in _refused(image_size, tmp_path)


# Frames


@pytest.mark.parametrize(("frame", "size"), [("crop", (31, 47)), ("half_crop", (15, 23)), ("resize", (16, 16))])
def test_fit_frame_sizes(rng, frame, size):
    image = rng.integers(0, 256, (31, 47, 3), dtype=np.uint8)
    fitted = fit_frame(image, frame=frame, crop_size=16)
    assert fitted.shape == (*size, 3)
    assert fitted_size((31, 47), frame=frame, crop_size=16) == size
    assert smallest_size(frame=frame, crop_size=16) == {"crop": 16, "half_crop": 32, "resize": 1}[frame]


def test_half_frame_of_a_ramp_is_the_mean_of_its_pixels():
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 3, axis=-1).repeat(64, axis=0)
    half = fit_frame(ramp, frame="half_crop", crop_size=16)
    np.testing.assert_allclose(half[4:-4, 4:-4, 0], np.mean(ramp[::2, :, 0].reshape(32, 32, 2), axis=-1)[4:-4, 4:-4], atol=1)


def test_crop_loader_reaches_every_window_and_no_other(tmp_path):
    path = _save(tmp_path / "a.png", (6, 7))
    load = CropLoader([(path, path)], frame="crop", crop_size=4)
    image = read_rgb(path)
    last = np.float32(1 - 2**-24)  # the largest draw below 1
    np.testing.assert_array_equal(load(0, np.array([0, 0, 0, 0], np.float32))[0], image[:4, :4])
    np.testing.assert_array_equal(load(0, np.full(4, last))[1], image[-4:, -4:])


def test_cache_limit(tmp_path):
    path = _save(tmp_path / "a.png", (6, 7))
    CropLoader([(path, path)], frame="crop", crop_size=4, cache_limit_bytes=6 * 7 * 6)
    message = _refused(CropLoader, [(path, path)], frame="crop", crop_size=4, cache_limit_bytes=6 * 7 * 6 - 1)
    assert "Switch the cache off" in message
    CropLoader([(path, path)], frame="half_crop", crop_size=2, cache_limit_bytes=3 * 3 * 6)


def test_neither_jax_nor_tensorflow_is_imported():
    code = "import sys, drsn_jax.data.pairs.folders, drsn_jax.data.pairs.pipeline\n"
    code += "print([name for name in ('jax', 'tensorflow') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
