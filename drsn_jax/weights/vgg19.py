"""Weights that ship with the package: VGG19's first seven convolutions, for the content loss. See NOTICE."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from drsn_jax.models.vgg19 import LAYERS
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import local_path
from drsn_jax.weights.vgg19_files import OFFICIAL, SUFFIXES, read_vgg19

VGG19_PATH = Path(__file__).parent / "shipped" / "vgg19_conv1_1-conv3_3.npz"


def load_vgg19(
    layer: str, path: Path | str | None = None, *, content_input: Literal["raw", "imagenet"] = "imagenet"
) -> dict[str, dict[str, jax.Array]]:
    """Read VGG19's parameters from conv1_1 up to `layer`, for `models.vgg19.VGG19`.

    The default is the file in the package, conv1_1 to conv3_3, within 0.4 to 0.9 % RMS of full precision. `path` is an .npz of 8-bit codes
    and code books in the same format, or the file of Keras or torchvision. `weights.vgg19_files.read_vgg19` describes these files and
    `content_input`. Raises InputError for an unknown layer, a missing or foreign file, or a layer that the file does not contain.
    """
    if layer not in LAYERS:
        raise InputError(f"VGG19 has no layer {layer!r}; use one of {', '.join(LAYERS)} (--config.content_layer=conv3_3).")
    path = local_path(path) if path else VGG19_PATH
    if path.suffix.lower() in SUFFIXES:
        caffe_kernel = _read_codes(VGG19_PATH)["conv1_1"]["kernel"]
        held = read_vgg19(path, content_input=content_input, caffe_kernel=caffe_kernel)
    else:
        held = _read_codes(path)
    wanted = LAYERS[: LAYERS.index(layer) + 1]
    if missing := [name for name in wanted if name not in held]:
        last = ([name for name in wanted if wanted.index(name) < wanted.index(missing[0])] or ["none"])[-1]
        choices = f"use --config.content_layer={last}, or --config.vgg19=FILE with that layer: {OFFICIAL}"
        raise InputError(f"{path.name} holds VGG19 up to {last}, not {layer}; {choices}.")
    return {name: jax.tree.map(jnp.asarray, held[name]) for name in wanted}


def load_frozen(config: Mapping[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """Return the `frozen` parameters of a configuration's training step: VGG19's, {} without a content loss."""
    if not config["content_weight"]:
        return {}
    return load_vgg19(config["content_layer"], config["vgg19"], content_input=config["content_input"])


def _read_codes(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read all layers of an .npz of codes [out in 3 3] and code books of 256 float32 values (`blockB_convC_W_q`, `_W_table`, `_b`)."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        params = {}
        for name in LAYERS:
            prefix = f"block{name[4]}_conv{name[6]}"
            if {f"{prefix}_W_q", f"{prefix}_W_table", f"{prefix}_b"} <= arrays.keys():
                kernel = arrays[f"{prefix}_W_table"][arrays[f"{prefix}_W_q"]].transpose(2, 3, 1, 0)
                params[name] = {"kernel": kernel, "bias": arrays[f"{prefix}_b"]}
    except (OSError, ValueError, IndexError, EOFError, TypeError, zipfile.BadZipFile) as error:  # TypeError: an .npy has no names
        raise InputError(
            f"VGG19 weights {path} cannot be read ({error}); leave it empty, or give an .npz of codes and code books, {OFFICIAL}."
        ) from error
    return params
