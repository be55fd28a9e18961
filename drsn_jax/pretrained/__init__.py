"""Weights that ship with the package: VGG19's first seven convolutions, for the content loss. See NOTICE."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from drsn_jax.errors import InputError
from drsn_jax.models.vgg19 import LAYERS

VGG19_PATH = Path(__file__).parent / "vgg19_conv1_1-conv3_3.npz"


def load_vgg19(layer: str, path: Path | str | None = None) -> dict[str, dict[str, jax.Array]]:
    """Reads VGG19's parameters from conv1_1 up to `layer`, for `models.vgg19.VGG19`.

    The file holds 8-bit codes [out in 3 3] and code books of 256 float32 values (`blockB_convC_W_q`, `_W_table`, `_b`), which is
    within 0.4 to 0.9 % RMS of full precision. Without `path` it is the one inside the package, conv1_1 to conv3_3.
    Raises InputError for an unknown layer, a missing or foreign file, or a layer that the file does not hold.
    """
    if layer not in LAYERS:
        raise InputError(f"VGG19 has no layer {layer!r}; use one of {', '.join(LAYERS)} (--config.content_layer=conv3_3).")
    path = Path(path).expanduser() if path else VGG19_PATH
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:  # TypeError: an .npy holds no names
        raise InputError(
            f"VGG19 weights {path} cannot be read ({error}); give an .npz of codes and code books, or leave it empty."
        ) from error
    params = {}
    for name in LAYERS[: LAYERS.index(layer) + 1]:
        prefix = f"block{name[4]}_conv{name[6]}"
        if not {f"{prefix}_W_q", f"{prefix}_W_table", f"{prefix}_b"} <= arrays.keys():
            held = [n for n in LAYERS if f"block{n[4]}_conv{n[6]}_W_q" in arrays]
            last = held[-1] if held else "none"
            choices = f"use --config.content_layer={last}, or --config.vgg19=FILE that holds it"
            raise InputError(f"{path.name} holds VGG19 up to {last}, not {layer}; {choices}.")
        kernel = arrays[f"{prefix}_W_table"][arrays[f"{prefix}_W_q"]].transpose(2, 3, 1, 0)
        params[name] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(arrays[f"{prefix}_b"])}
    return params
