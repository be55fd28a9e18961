"""Reader of VGG19's convolutions in the files of Keras and torchvision, for `models.vgg19.VGG19`.

Keras' weights are the authors' own (Simonyan & Zisserman 2015). Their input is BGR, 0..255, minus the means: our `content_input` imagenet.
torchvision's come from another training of the same network. Their input is RGB, (x - mean) / std of [0, 1]. It is about 57 times
smaller, and so are their features, so they need another `content_weight`.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from drsn_jax.models.vgg19 import BGR_MEANS, BLOCK_SIZES, BLOCK_WIDTHS, LAYERS
from drsn_jax.system.errors import InputError
from drsn_jax.weights.tensors import read_tensors

SUFFIXES = (".h5", ".hdf5", ".pth", ".pt", ".safetensors")
OFFICIAL = (
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 of Keras"
    " (https://storage.googleapis.com/tensorflow/keras-applications/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5),"
    " or vgg19-dcbb9e9d.pth of torchvision (https://download.pytorch.org/models/vgg19-dcbb9e9d.pth)"
)
KERAS_MD5 = "253f8cb515780f3b799900260a226db6"  # of that file, as in keras.applications
TORCH_MEANS, TORCH_STDS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB, of values in [0, 1]
LARGEST = 3 * 3 * 512 * 512  # numbers in one kernel
HDF5 = b"\x89HDF\r\n\x1a\n"
Params = dict[str, dict[str, np.ndarray]]


def read_vgg19(
    path: Path,
    *,
    content_input: Literal["raw", "imagenet"] = "imagenet",
    caffe_kernel: Float[np.ndarray, "3 3 3 64"] | None = None,
) -> Params:
    """Read the convolutions of a Keras .h5 or a torchvision .pth or .safetensors file, by our names, up to the first missing one.

    torchvision's first convolution is converted for `content_input` imagenet (`convert_first`); raw uses the weights unchanged, as
    DeblurGAN does. Some files with torchvision's names contain the authors' weights, recognised by a first kernel close to `caffe_kernel`;
    they need no conversion. Raises InputError, with the file's SHA-256, for missing, damaged or foreign files, and for shapes that are not
    VGG19's. Raises it also if a file of torchvision has another SHA-256 than its name states.
    """
    try:
        with path.open("rb") as file:
            keras = file.read(8) == HDF5
    except OSError as error:
        raise InputError(f"VGG19 weights {path} cannot be read ({error.strerror}); give {OFFICIAL}.") from error
    _check_named_hash(path)
    params = _read_keras(path) if keras else _read_torchvision(path)
    for name, (kernel, bias) in zip(LAYERS, _shapes(), strict=True):
        if name in params and (params[name]["kernel"].shape, params[name]["bias"].shape) != (kernel, bias):
            given = f"{params[name]['kernel'].shape} and {params[name]['bias'].shape}"
            raise _foreign(path, f"kernel and bias of {name} are {given}, not {kernel} and {bias}")
    if not keras and content_input == "imagenet" and "conv1_1" in params:
        kernel = params["conv1_1"]["kernel"]
        if caffe_kernel is None or relative_rms(kernel, caffe_kernel) > 0.05:
            params["conv1_1"] = convert_first(**params["conv1_1"])
    return params


def convert_first(*, kernel: Float[np.ndarray, "3 3 3 64"], bias: Float[np.ndarray, " 64"]) -> dict[str, np.ndarray]:
    """Convert torchvision's first convolution (of RGB, normalised) to one of BGR in 0..255, minus the means of `models.vgg19`.

    It is the same function of the image except in the outermost ring of pixels. There the zero padding represents colours that differ by
    up to 0.5 of 255, like the means.
    """
    means, scale = np.array(BGR_MEANS[::-1]), 1 / (255 * np.array(TORCH_STDS))
    shift = means * scale - np.array(TORCH_MEANS) / np.array(TORCH_STDS)  # RGB: normalised = scale * ours + shift
    converted = (kernel * scale[:, None])[:, :, ::-1]
    return {"kernel": converted.astype(np.float32), "bias": (bias + np.einsum("hwio,i->o", kernel, shift)).astype(np.float32)}


def relative_rms(kernel: np.ndarray, reference: np.ndarray) -> float:
    """Return the root of the mean squared difference, relative to the reference's own."""
    return float(np.sqrt(np.mean((kernel - reference) ** 2) / np.mean(reference**2)))


def describe_vgg19(path: Path) -> str:
    """Describe a file of weights in one line: its origin, last layer and SHA-256. Raises InputError as `read_vgg19`."""
    params, digest = read_vgg19(path, content_input="raw"), _hash(path)
    with path.open("rb") as file:
        keras = file.read(8) == HDF5
        file.seek(0)
        official = keras and hashlib.file_digest(file, "md5").hexdigest() == KERAS_MD5
    kind = "Keras' official weights" if official else "Keras' layout" if keras else "torchvision's layout"
    return f"VGG19: {path.name}, {kind}, conv1_1 to {list(params)[-1]}, SHA-256 {digest}"


def _shapes() -> list[tuple[tuple[int, ...], tuple[int]]]:
    widths = [width for size, width in zip(BLOCK_SIZES, BLOCK_WIDTHS, strict=True) for _ in range(size)]
    return [((3, 3, into, out), (out,)) for into, out in zip((3, *widths), widths, strict=False)]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_named_hash(path: Path) -> None:
    """Check the first digits of the file's SHA-256, which torchvision puts into its name."""
    named = re.search(r"-([0-9a-f]{8,64})\.(pth|safetensors)$", path.name)
    if named and not _hash(path).startswith(named[1]):
        raise InputError(f"{path} is damaged: its SHA-256 should start with {named[1]}, but is {_hash(path)}; fetch it again.")


def _foreign(path: Path, reason: str) -> InputError:
    return InputError(f"{path} (SHA-256 {_hash(path)}) does not hold VGG19: {reason}; give {OFFICIAL}.")


def _gapless(params: Params) -> Params:
    held: Sequence[str] = LAYERS[: next((i for i, name in enumerate(LAYERS) if name not in params), len(LAYERS))]
    return {name: params[name] for name in held}


def _read_torchvision(path: Path) -> Params:
    numbers, number = {}, 0
    for name in LAYERS:  # a ReLU follows each convolution, a pooling layer each block
        number += name.endswith("_1") and name != "conv1_1"
        numbers[name] = f"features.{number}"
        number += 2
    tensors = read_tensors(path, keep=lambda name: name.startswith("features."))
    if foreign := tensors.keys() - {f"{number}.{part}" for number in numbers.values() for part in ("weight", "bias")}:
        raise _foreign(path, f"it contains {min(foreign)[:60]!r}, which is not part of VGG19 without batch norm")
    params = {
        name: {"kernel": tensors[f"{number}.weight"], "bias": tensors[f"{number}.bias"]}
        for name, number in numbers.items()
        if {f"{number}.weight", f"{number}.bias"} <= tensors.keys()
    }
    if "conv1_1" not in params or any(part["kernel"].ndim != 4 for part in params.values()):
        raise _foreign(path, "it has no 'features.0.weight' and so on of four dimensions")
    return {name: {**part, "kernel": part["kernel"].transpose(2, 3, 1, 0)} for name, part in _gapless(params).items()}


def _read_keras(path: Path) -> Params:
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path} is HDF5 and needs h5py ({error}): pip install 'drsn-jax[keras]'.") from error
    params: Params = {}
    try:
        with h5py.File(path, "r") as file:
            root: Any = file.get("model_weights", file)  # in files of whole models
            for name in LAYERS:
                found: list[Any] = []
                group = root.get(f"block{name[4]}_conv{name[6]}", {})
                if group:
                    group.visititems(lambda _, item, found=found: found.append(item) if isinstance(item, h5py.Dataset) else None)
                by_rank = {len(dataset.shape): dataset for dataset in found if dataset.size <= LARGEST}
                if len(found) == 2 and by_rank.keys() == {1, 4}:
                    params[name] = {"kernel": np.asarray(by_rank[4], np.float32), "bias": np.asarray(by_rank[1], np.float32)}
    except Exception as error:  # h5py passes on the errors of its C library
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{path} is damaged ({reason}); fetch it again, or give another.") from error
    if "conv1_1" not in params:
        raise _foreign(path, "it has no group block1_conv1 of a kernel and a bias")
    return _gapless(params)
