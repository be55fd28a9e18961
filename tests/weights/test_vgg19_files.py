"""VGG19 from files of the layouts that Keras and torchvision publish, written by the test; features against numpy by their own rules."""

import hashlib
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import signal
from weight_files import write_keras_vgg19, write_safetensors, write_torch

from drsn_jax.models.vgg19 import LAYERS, VGG19
from drsn_jax.system.errors import InputError
from drsn_jax.weights.vgg19 import load_vgg19
from drsn_jax.weights.vgg19_files import convert_first, describe_vgg19, read_vgg19, relative_rms

WIDTHS = {"conv1_1": (3, 64), "conv1_2": (64, 64), "conv2_1": (64, 128)}
NUMBERS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)  # torchvision's, of the convolutions
MEANS, STDS = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # torchvision's preprocessing
SHARED = Path(__file__).parents[3] / "shared" / "data" / "vgg19" / "vgg19_conv1_1-conv4_4_uint8_codebook.npz"


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    return {
        name: {
            "kernel": (rng.normal(0, 1, (3, 3, *widths)) / np.sqrt(9 * widths[0])).astype(np.float32),
            "bias": rng.normal(0, 0.1, widths[1]).astype(np.float32),
        }
        for name, widths in WIDTHS.items()
    }


def torch_names(layers):
    """Convert kernels to PyTorch's layout, [out in h w], with the classifier of its file."""
    tensors = {"classifier.0.weight": np.zeros((2, 2), np.float32)}
    for number, layer in zip(NUMBERS, layers.values(), strict=False):
        tensors |= {f"features.{number}.weight": layer["kernel"].transpose(3, 2, 0, 1), f"features.{number}.bias": layer["bias"]}
    return tensors


def features(image, layers):
    """conv1_1 to conv2_1 of one preprocessed image, by scipy in float64."""
    for name, layer in layers.items():
        if name == "conv2_1":
            x = image
            image = np.maximum.reduce([x[i::2, j::2] for i in (0, 1) for j in (0, 1)])
        kernel = layer["kernel"].astype(np.float64)
        planes = [
            sum(signal.correlate2d(image[..., i], kernel[:, :, i, o], mode="same") for i in range(image.shape[-1]))
            for o in range(kernel.shape[-1])
        ]
        image = np.maximum(np.stack(planes, -1) + layer["bias"], 0)
    return image


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).uniform(-1, 1, (10, 8, 3)).astype(np.float32)


def test_the_keras_file_gives_keras_features(layers, image, tmp_path):
    """keras.applications' preprocessing: RGB to BGR, 0..255, less the means."""
    path = write_keras_vgg19(tmp_path / "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", layers)
    params = load_vgg19("conv2_1", path)
    seen = VGG19("conv2_1", "imagenet").apply({"params": params}, image[None])[0]
    caffe = (image.astype(np.float64)[..., ::-1] + 1) / 2 * 255 - [103.939, 116.779, 123.68]
    expected = features(caffe, layers)
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(load_vgg19("conv1_1", path, content_input="raw")["conv1_1"]["kernel"], layers["conv1_1"]["kernel"])


@pytest.mark.parametrize("form", ["vgg19.pth", "legacy.pth", "vgg19.safetensors"])
def test_the_torchvision_file_gives_torchvisions_features(form, layers, image, tmp_path):
    tensors = torch_names(layers)
    if form.endswith("pth"):
        path = write_torch(tmp_path / form, tensors, legacy=form == "legacy.pth")
    else:
        path = write_safetensors(tmp_path / form, tensors)
    seen = VGG19("conv1_1", "imagenet").apply({"params": load_vgg19("conv1_1", path)}, image[None])[0]
    normalised = ((image.astype(np.float64) + 1) / 2 - MEANS) / STDS
    expected = features(normalised, {"conv1_1": layers["conv1_1"]})
    difference = np.abs(seen - expected)
    assert difference[1:-1, 1:-1].max() < 1e-5 * expected.max(), "the same function of the image"
    assert 1e-4 * expected.max() < difference.max() < 1e-2 * expected.max(), "the ring: means that differ by 0.5 of 255"


def test_deeper_layers_of_torchvision_are_taken_as_they_are_and_raw_the_first_too(layers, image, tmp_path):
    path = write_torch(tmp_path / "vgg19.pth", torch_names(layers))
    raw = load_vgg19("conv2_1", path, content_input="raw")
    for name, layer in layers.items():
        np.testing.assert_array_equal(raw[name]["kernel"], layer["kernel"])
    seen = VGG19("conv2_1", "raw").apply({"params": raw}, image[None])[0]
    np.testing.assert_allclose(seen, features(image.astype(np.float64), layers), rtol=1e-4, atol=1e-5)
    converted = load_vgg19("conv2_1", path)
    assert np.abs(converted["conv1_1"]["kernel"] - layers["conv1_1"]["kernel"]).max() > 0.01
    np.testing.assert_array_equal(converted["conv2_1"]["kernel"], layers["conv2_1"]["kernel"])


def test_the_authors_own_weights_under_torchvisions_names_need_no_conversion(tmp_path):
    ours = {"conv1_1": jax.tree.map(np.asarray, load_vgg19("conv1_1")["conv1_1"])}
    noisy = {"conv1_1": ours["conv1_1"] | {"kernel": ours["conv1_1"]["kernel"] * np.float32(1.009)}}
    path = write_torch(tmp_path / "vgg19_caffe.pth", torch_names(noisy))
    np.testing.assert_array_equal(load_vgg19("conv1_1", path)["conv1_1"]["kernel"], noisy["conv1_1"]["kernel"])
    assert relative_rms(noisy["conv1_1"]["kernel"], ours["conv1_1"]["kernel"]) == pytest.approx(0.009, rel=1e-3)


def test_conversion_is_linear_algebra(layers):
    """A constant colour in both conventions."""
    converted = convert_first(**layers["conv1_1"])
    colour = np.array([30.0, 90.0, 220.0])  # RGB
    theirs = layers["conv1_1"]["kernel"].astype(np.float64).sum((0, 1)).T @ ((colour / 255 - MEANS) / STDS) + layers["conv1_1"]["bias"]
    bgr = (colour - [123.68, 116.779, 103.939])[::-1]
    np.testing.assert_allclose(converted["kernel"].astype(np.float64).sum((0, 1)).T @ bgr + converted["bias"], theirs, atol=1e-5)


def test_torchvisions_numbers_down_to_conv5_4(tmp_path):
    """A bias that tells its layer; stored as bfloat16 for speed."""
    tensors, into = {}, 3
    for i, (number, name) in enumerate(zip(NUMBERS, LAYERS, strict=True)):
        out = (64, 128, 256, 512, 512)[int(name[4]) - 1]
        tensors |= {f"features.{number}.weight": np.zeros((out, into, 3, 3), np.float32), f"features.{number}.bias": np.full(out, i + 1.0)}
        into = out
    params = read_vgg19(write_safetensors(tmp_path / "vgg19.safetensors", tensors, "BF16"))
    assert tuple(params) == LAYERS
    assert [float(params[name]["bias"][0]) for name in LAYERS] == [*range(1, 17)]


# Messages


def refuses(call, match):
    with pytest.raises(InputError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_deeper_layer_says_where_the_official_files_are(layers, tmp_path):
    official = (
        r"--config.vgg19=FILE.*vgg19_weights_tf_dim_ordering_tf_kernels_notop\.h5 of Keras \(https://.*vgg19-dcbb9e9d\.pth of torchvision"
    )
    refuses(lambda: load_vgg19("conv5_4"), rf"up to conv3_3, not conv5_4; .*{official}")
    path = write_keras_vgg19(tmp_path / "mine.h5", {name: layers[name] for name in ("conv1_1", "conv2_1")})
    refuses(lambda: load_vgg19("conv2_1", path), r"mine\.h5 holds VGG19 up to conv1_1, not conv2_1")


def test_a_file_named_after_another_hash(layers, tmp_path):
    path = write_torch(tmp_path / "vgg19.pth", torch_names(layers))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    right = path.rename(tmp_path / f"vgg19-{digest[:8]}.pth")
    assert load_vgg19("conv1_1", right)
    assert describe_vgg19(right).endswith(f"torchvision's layout, conv1_1 to conv2_1, SHA-256 {digest}")
    refuses(lambda: load_vgg19("conv1_1", right.rename(tmp_path / "vgg19-dcbb9e9d.pth")), rf"should start with dcbb9e9d, but is {digest}")


def test_descriptions_of_keras_files(layers, tmp_path):
    path = write_keras_vgg19(tmp_path / "vgg19.h5", layers)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert describe_vgg19(path) == f"VGG19: vgg19.h5, Keras' layout, conv1_1 to conv2_1, SHA-256 {digest}"


def test_wrong_shapes_and_foreign_files(layers, tmp_path):
    first = layers["conv1_1"]
    theano = {"conv1_1": first | {"kernel": first["kernel"].transpose(3, 2, 0, 1)}}
    path = write_keras_vgg19(tmp_path / "th.h5", theano)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    refuses(
        lambda: load_vgg19("conv1_1", path), rf"th\.h5 \(SHA-256 {digest}\).*conv1_1 are \(64, 3, 3, 3\) and \(64,\), not \(3, 3, 3, 64\)"
    )
    normed = torch_names(layers) | {"features.1.running_mean": np.zeros(64, np.float32)}
    refuses(lambda: load_vgg19("conv1_1", write_torch(tmp_path / "bn.pth", normed)), r"'features.1.running_mean'.*without batch norm")
    other = write_safetensors(tmp_path / "other.safetensors", {"layer.weight": np.zeros(3, np.float32)})
    refuses(lambda: load_vgg19("conv1_1", other), r"does not hold VGG19: it has no 'features.0.weight'")
    empty = write_keras_vgg19(tmp_path / "empty.h5", {})
    refuses(lambda: load_vgg19("conv1_1", empty), r"no group block1_conv1")
    refuses(lambda: load_vgg19("conv1_1", tmp_path / "none.h5"), r"none\.h5 cannot be read \(No such file.*; give vgg19_weights")


@pytest.mark.parametrize("name", ["vgg19.h5", "vgg19.pth"])
def test_a_truncated_file(name, layers, tmp_path):
    path = (write_keras_vgg19 if name.endswith("h5") else write_torch)(
        tmp_path / name, layers if name.endswith("h5") else torch_names(layers)
    )
    content = path.read_bytes()
    for share in (0, 0.001, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        refuses(lambda: load_vgg19("conv2_1", path), r"vgg19\.")


# Files that are not in the repository


def test_the_built_in_part_is_that_of_the_larger_file():
    if not SHARED.exists():
        pytest.skip(f"{SHARED.name} is not here")
    theirs, ours = load_vgg19("conv4_4", SHARED), load_vgg19("conv3_3")
    assert tuple(theirs) == LAYERS[: LAYERS.index("conv4_4") + 1]
    for name, layer in ours.items():
        np.testing.assert_array_equal(layer["kernel"], theirs[name]["kernel"])


def test_the_built_in_part_against_an_official_file():
    """DRSN_JAX_VGG19=PATH: Keras' official file. The package's codes are within 0.9 % RMS of it, the biases exact."""
    path = os.environ.get("DRSN_JAX_VGG19")
    if not path:
        pytest.skip("set DRSN_JAX_VGG19 to Keras' official VGG19 file")
    assert "official" in describe_vgg19(Path(path))
    theirs = load_vgg19("conv3_3", path)
    for name, layer in load_vgg19("conv3_3").items():
        assert relative_rms(np.asarray(layer["kernel"]), np.asarray(theirs[name]["kernel"])) < 0.01
        np.testing.assert_allclose(layer["bias"], theirs[name]["bias"], atol=1e-6)
