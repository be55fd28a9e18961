"""The file of `drsn-jax export --format=onnx`: one image of one size, run by onnxruntime.

Its metadata contain, under `drsn_jax`, a JSON of format, version, stride, configuration and information on the model. The input
`images` and the output `restored` are float32 [1 h w 3] in [-1, 1].
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath

FORMAT, VERSION = "drsn-jax generator", 1
KEY, INPUT, OUTPUT = "drsn_jax", "images", "restored"
SUFFIX = ".onnx"
Images = Float[np.ndarray, "b h w 3"]


class OnnxGenerator(NamedTuple):
    """`predict_fn` maps one image [1 h w 3] in [-1, 1] of up to `size` (height, width) to the restored one; `description` as stored."""

    predict_fn: Callable[[Images], Images]
    size: tuple[int, int]
    description: dict[str, Any]


def describe_onnx(*, stride: int, config: Mapping[str, Any], info: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a file."""
    fields = {"format": FORMAT, "version": VERSION, **versions, "stride": stride, "config": dict(config), "info": dict(info)}
    return {KEY: json.dumps(fields)}


def read_onnx(file: AnyPath | bytes, *, platform: str = "cpu") -> OnnxGenerator:
    """Read a file for the CPU, or for another `platform` of jax that onnxruntime supports.

    Raises InputError if onnxruntime is missing or does not support that platform, and for files that are damaged, foreign, or newer.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"ONNX files need onnxruntime ({error}): pip install 'drsn-jax[onnx]'.") from error
    name = "the export" if isinstance(file, bytes) else str(file)
    providers = _providers(onnxruntime.get_available_providers(), platform)
    try:
        session = onnxruntime.InferenceSession(file if isinstance(file, bytes) else file.read_bytes(), providers=providers)
        description = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
        [given], [made] = session.get_inputs(), session.get_outputs()
        _, height, width, _ = given.shape
        _check(description, given, made)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}); give another --model.") from error
    except Exception as error:  # onnxruntime has a dozen error types, and a damaged file can fail in as many ways
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        advice = "give a file of `drsn-jax export --format=onnx`"
        raise InputError(f"{name} is not an ONNX export of drsn-jax, or it is damaged ({reason}); {advice}.") from error
    if description["version"] > VERSION:
        raise InputError(f"{name} was written by a newer drsn-jax; upgrade, or export the model with this one.")

    def predict_fn(images: Images) -> Images:
        missing = height - images.shape[1], width - images.shape[2]
        if min(missing) < 0:
            raise InputError(
                f"{name} supports images of up to {height}x{width}, not {images.shape[1]}x{images.shape[2]}; use smaller tiles."
            )
        padded = np.pad(np.asarray(images, np.float32), ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
        restored = np.concatenate([np.asarray(session.run([OUTPUT], {INPUT: image[None]})[0]) for image in padded])
        return restored[:, : images.shape[1], : images.shape[2]]

    return OnnxGenerator(predict_fn, (height, width), description)


def _providers(available: list[str], platform: str) -> list[str]:
    wanted = {"gpu": ("CUDAExecutionProvider", "ROCMExecutionProvider"), "cpu": ("CPUExecutionProvider",)}.get(platform, ())
    if not (found := [name for name in wanted if name in available]):
        raise InputError(f"this onnxruntime does not support {platform} (it has {', '.join(available)}); omit --device, or use cpu.")
    return found


def _check(description: dict[str, Any], given: Any, made: Any) -> None:
    """Raise ValueError for inputs, outputs and metadata that are not those of an export."""
    batch, _, _, channels = given.shape
    if description["format"] != FORMAT or (given.name, made.name, batch, channels) != (INPUT, OUTPUT, 1, 3) or made.shape != given.shape:
        raise ValueError("its images are not those of a generator")
    dictionaries = isinstance(description["config"], dict) and isinstance(description["info"], dict)
    if not dictionaries or type(description["stride"]) is not int:
        raise ValueError("its description is incomplete")
