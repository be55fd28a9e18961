"""`drsn_jax.restore_image`, and the options of `restore` that choose how: one tiny model, what it does known from `load_model`."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from levels import assert_same_levels
from networks import images, quick_compiles, write_model  # noqa: F401
from PIL import Image
from scipy import ndimage

import drsn_jax
from drsn_jax.cli.main import main
from drsn_jax.ops.devices import find_devices
from drsn_jax.ops.metrics import psnr
from drsn_jax.restoration import arrays
from drsn_jax.restoration.core.restorer import make_restore_fn
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import Model, load_model
from drsn_jax.weights.shipped import SHIPPED


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Write a compact model of random weights."""
    return write_model(tmp_path_factory.mktemp("model") / "compact", "unshuffle=2")


@pytest.fixture(scope="module")
def model(path):
    return load_model(path)


@pytest.fixture(scope="module")
def restored(model):
    """Return this model's restoration of float images."""
    return make_restore_fn(model)


@pytest.fixture
def image(rng):
    """However it is turned, the network sees 32x32: one compilation."""
    return rng.random((24, 31, 3), dtype=np.float32)


def test_floats_and_bytes(path, restored, image):
    expected = restored(image)
    assert np.abs(expected - image).max() > 0.05, "the network does something"
    for given in (image, image.astype(np.float64), jnp.asarray(image)):
        result = drsn_jax.restore_image(given, model=path)
        assert (type(result), result.dtype) == (np.ndarray, np.float32)
        np.testing.assert_allclose(result, expected, atol=1e-6)
    levels = np.rint(image * 255).astype(np.uint8)
    result = drsn_jax.restore_image(levels, model=str(path))
    assert result.dtype == np.uint8
    assert_same_levels(result, np.rint(restored(levels.astype(np.float32) / np.float32(255)) * 255))


def test_grey_and_alpha(path, restored, image):
    grey, alpha = image[..., :1], image[..., 2:]
    expected = restored(np.repeat(grey, 3, axis=-1)).mean(axis=-1)
    np.testing.assert_allclose(drsn_jax.restore_image(grey[..., 0], model=path), expected, atol=1e-6)
    np.testing.assert_allclose(drsn_jax.restore_image(grey, model=path), expected[..., None], atol=1e-6)
    result = drsn_jax.restore_image(np.concatenate([image, alpha], axis=-1), model=path)
    np.testing.assert_allclose(result[..., :3], restored(image), atol=1e-6)
    np.testing.assert_array_equal(result[..., 3:], alpha)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(drsn_jax.restore_image(np.repeat(levels, 4, axis=-1), model=path)[..., 3:], levels)


def test_choices_are_passed_on(path, model, image):
    choices = {"strength": 0.5, "self_ensemble": True, "tile": 16, "overlap": 8}
    expected = make_restore_fn(model, **choices)(image)
    np.testing.assert_allclose(drsn_jax.restore_image(image, model=path, **choices), expected, atol=1e-6)


def test_the_given_array_is_left_as_it_is(path, image):
    before = image.copy()
    drsn_jax.restore_image(image, model=path, strength=0.5)[:] = 0
    np.testing.assert_array_equal(image, before)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((3, 8, 8), np.uint8), ["[3, 8, 8]", "[h w 3]", "[h w 4]"]),
        (np.zeros((1, 8, 8, 3), np.uint8), ["[1, 8, 8, 3]"]),
        (np.zeros((0, 8, 3), np.uint8), ["[0, 8, 3]", "at least one pixel"]),
        (np.zeros((8, 8, 3), np.uint16), ["uint16", "uint8, or floats in [0, 1]"]),
        (np.zeros((8, 8, 3), bool), ["bool"]),
        (np.full((8, 8), 255.0), ["from 255 to 255", "[0, 1]"]),
        (np.full((8, 8), 1.00101), ["from 1.00101 to 1.00101"]),
        (np.full((8, 8), -0.0011, jnp.bfloat16), ["from -0.00109863281"]),
        (np.linspace(-0.5, 1, 64).reshape(8, 8), ["from -0.5 to 1"]),
        (np.full((8, 8, 3), np.nan, np.float32), ["nan"]),
        (Image.new("P", (8, 8)), ["of type Image", "numpy.asarray"]),
        ([[0.0]], ["of type list"]),
    ],
)
def test_what_cannot_be_restored_is_named(given, words):
    with pytest.raises(InputError) as error:
        drsn_jax.restore_image(given, model="/nowhere")  # refused before a model is looked for
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_what_resampling_leaves_beyond_the_range_is_clipped(path, restored, image):
    over = image * np.float32(1.002) - np.float32(0.001)
    assert over.max() > 1 - 1e-3
    assert over.min() < 0
    np.testing.assert_allclose(drsn_jax.restore_image(over, model=path), restored(np.clip(over, 0, 1)), atol=1e-6)
    coarse = jnp.asarray(image, jnp.bfloat16)
    for given in (coarse, np.asarray(coarse)):
        np.testing.assert_allclose(drsn_jax.restore_image(given, model=path), restored(np.asarray(coarse, np.float32)), atol=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"strength": "0.5"}, "Strength '0.5' is no number from 0"),
        ({"strength": None}, "Strength None is no number from 0"),
        ({"strength": float("nan")}, "Strength nan is no number from 0"),
        ({"model": None}, "model=None is not a model; give one of small, base"),
        ({"model": 3}, "model=3 is not a model"),
    ],
)
def test_choices_that_make_no_sense_are_named(path, image, choice, words):
    with pytest.raises(InputError, match=words):
        drsn_jax.restore_image(image, **({"model": path} | choice))


def test_models_and_devices_that_are_not_there_are_named(path, image, tmp_path):
    with pytest.raises(InputError, match=str(tmp_path / "none")):
        drsn_jax.restore_image(image, model=tmp_path / "none")
    with pytest.raises(InputError, match="no device 'tpu'"):
        drsn_jax.restore_image(image, model=path, device="tpu")


def test_devices_by_name(path, restored, image):
    assert find_devices() == find_devices("CPU") == jax.devices()
    assert find_devices("cpu:3") == [jax.devices()[3]]
    for name in ("gpu", "cpu:8", "cpu:-1", "cpu:", "", "cup", "cpu:x"):
        with pytest.raises(InputError, match=rf"no device '{name}' .* use one of cpu:0, cpu:1, .*, cpu:7 \(--device=cpu:0\)\.$"):
            find_devices(name)
    np.testing.assert_allclose(drsn_jax.restore_image(image, model=path, device="cpu:3"), restored(image), atol=1e-6)
    assert arrays._load(path, "cpu:3", None).predict_fn(images()).devices() == {jax.devices()[3]}


def test_the_command_does_what_its_options_say(path, model, restored, image, tmp_path, capsys):
    levels = np.rint(image * 255).astype(np.uint8)
    scaled = levels.astype(np.float32) / np.float32(255)
    Image.fromarray(levels).save(tmp_path / "in.png")

    def differs(expected, *options):
        assert main(["restore", f"--model={path}", "--overwrite", str(tmp_path / "in.png"), *options]) == 0, capsys.readouterr().err
        return np.abs(np.asarray(Image.open(tmp_path / "in.restored.png")) - np.rint(expected * 255)).max()

    ensemble = make_restore_fn(model, self_ensemble=True)(scaled)
    assert differs(scaled + 0.3 * (ensemble - scaled), "--strength=0.3", "--self-ensemble", "--device=cpu:3", "--panel") <= 1
    assert (tmp_path / "in.restored.png.panel.png").exists()
    capsys.readouterr()
    assert differs(scaled + 0.5 * (restored(scaled) - scaled), "--whole", "--device=cpu:3", "--strength=0.5") <= 1
    assert "Each image whole, on one device (cpu).\n" in capsys.readouterr().err
    assert np.abs(ensemble - restored(scaled)).max() > 0.02, "the two differ enough to be told apart"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--strength=2", ["Strength 2.0 is no number from 0", "1"]),
        ("--device=gpu", ["no device 'gpu'", "cpu:0"]),
        ("--whole --device=tpu:1", ["no device 'tpu:1'"]),
    ],
)
def test_mistakes_in_the_options_are_one_line(option, words, path, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    assert main(["restore", f"--model={path}", str(tmp_path / "in.png"), *option.split()]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words), message
    assert [file.name for file in tmp_path.iterdir()] == ["in.png"]


def test_a_model_is_read_once(image, monkeypatch):
    read = []
    monkeypatch.setattr(
        arrays, "load_model", lambda path, *, device, dtype: read.append(path) or Model(lambda blurred: -blurred, 4, {}, {})
    )
    for _ in range(2):
        np.testing.assert_allclose(drsn_jax.restore_image(image, model="/its/path"), 1 - image, atol=1e-6)
    assert read == [Path("/its/path")]
    drsn_jax.restore_image(image, model="/its/other/path")
    assert len(read) == 2
    arrays._load.cache_clear()


def test_the_name_is_there_without_jax():
    code = "import drsn_jax, sys; assert 'jax' not in sys.modules; from drsn_jax import restore_image; print(restore_image.__module__)"
    done = subprocess.run([sys.executable, "-c", code], env=tiny.environment(), capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "drsn_jax.restoration.arrays", done.stderr
    with pytest.raises(AttributeError, match="'drsn_jax' has no attribute 'restore_images'"):
        drsn_jax.restore_images  # noqa: B018


@pytest.mark.parametrize("model", SHIPPED)
def test_a_shipped_model_restores(model, photograph, tmp_path):
    Image.fromarray(photograph[100:164, 180:260]).save(tmp_path / "photo.png")
    assert main(["restore", f"--model={model}", str(tmp_path / "photo.png")]) == 0
    result = np.asarray(Image.open(tmp_path / "photo.restored.png"))
    assert result.shape == (64, 80, 3)
    assert 0 < np.abs(result.astype(int) - photograph[100:164, 180:260]).mean() < 20
    assert_same_levels(drsn_jax.restore_image(photograph[100:164, 180:260], model=model), result)


def test_the_first_shipped_model_is_the_default(photograph):
    image = photograph[100:132, 180:220]
    assert_same_levels(drsn_jax.restore_image(image), drsn_jax.restore_image(image, model=SHIPPED[0]))


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize(("length", "variance", "least"), [(1, 1e-3, 2.5), (15, 0.0, 1.0), (15, 1e-3, 1.5)])
def test_a_shipped_model_makes_it_better(model, photograph, rng, length, variance, least):
    """A straight horizontal motion in linear light, and noise; the sharp photograph was never trained on."""
    light = (photograph / 255) ** 2.2
    blurred = np.maximum(ndimage.uniform_filter1d(light, length, axis=1), 0) ** (1 / 2.2)
    noisy = np.clip(np.rint((blurred + rng.normal(0, variance**0.5, blurred.shape)) * 255), 0, 255).astype(np.uint8)
    assert psnr(drsn_jax.restore_image(noisy, model=model), photograph) - psnr(noisy, photograph) > least
