"""Reader of DeblurGAN generators in the layout of its PyTorch programs (Kupyn et al. 2018; pix2pix's layer names).

The layers are numbered by their place in a Sequential, for n blocks:

    number              layer
    1                   7x7 stem
    4, 7                stride-2 convolutions
    10 ... 9 + n        blocks
    10 + n, 13 + n      transposed convolutions
    17 + n              7x7 head

A layer's norm has the next number. Inside a block the second convolution is number 6 after dropout, otherwise 5. Since March 2019
DeblurGAN's blocks have one convolution, by accident. Both kinds are supported.

The file does not store these settings, so those of DeblurGAN's test program are used. The generator learns the residual: clip(input +
tanh). Blocks pad by reflection. A block of one convolution ends in ReLU, which is its form with dropout, the default. Norms without weights
are instance norms. They use the statistics of the image even if moving statistics are stored. That program leaves dropout on; here it is
off in inference.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drsn_jax.system.errors import InputError
from drsn_jax.weights.tensors import read_tensors

NAME = re.compile(r"(?:module\.)*(?:netG\.|generator\.)?model\.(\d+)(?:\.conv_block\.(\d+))?\.(\w+)")
EPSILON, OUR_EPSILON = 1e-5, 1e-3  # of batch norm, in PyTorch and in models.layers
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
Place = tuple[int, int | None]  # a layer's number, and its number inside a block
Layers = dict[Place, dict[str, np.ndarray]]


class TorchGenerator(NamedTuple):
    """Variables for `models.generator.Generator`, and the configuration values that describe the network."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    changes: dict[str, Any]


def read_torch(path: Path) -> TorchGenerator:
    """Read a DeblurGAN generator from a .pth (either format of torch.save) or .safetensors file.

    In inference the network of `changes` equals PyTorch's with instance norms in training mode, as in DeblurGAN, and batch norms in
    evaluation mode. The smaller epsilon of PyTorch's batch norm is merged into the scale. Raises InputError for a file that `read_tensors`
    refuses, and for other layers, shapes or norms, each named.
    """
    layers = _by_place(path, read_tensors(path))
    blocks = sorted({number for number, inner in layers if inner is not None})
    if not blocks or blocks != list(range(10, 10 + len(blocks))):
        raise _foreign(path, f"its blocks are the layers {blocks or 'none'}, not 10 and on")
    inner = {conv for _, conv in layers if conv is not None and layers[blocks[0], conv].get("weight", np.zeros(0)).ndim == 4}
    if inner not in ({1}, {1, 5}, {1, 6}):
        raise _foreign(path, f"the convolutions of its blocks are the layers {sorted(inner)}, not 1, or 1 and 5, or 1 and 6")
    widths = tuple(len(np.atleast_1d(layers.get((number, None), {}).get("weight", 0))) for number in (1, 4, 7))
    reader = _Reader(path, layers, batch=(2, None) in layers and "weight" in layers[2, None])
    reader.read_generator(widths, blocks, sorted(inner))
    if layers:
        place, stored = next(iter(layers.items()))
        raise _foreign(path, f"it also has a {_describe(place)} ({', '.join(stored)})")
    return TorchGenerator(reader.params, reader.batch_stats, _changes(widths, blocks, inner, batch=reader.batch))


def _changes(widths: tuple[int, ...], blocks: list[int], inner: set[int], *, batch: bool) -> dict[str, Any]:
    return {
        "trunk": "quarter",
        "widths": widths,
        "num_blocks": len(blocks),
        "block_order": "post",
        "shrinkage": False,
        "convs_per_block": len(inner),
        "norm": "batch" if batch else "instance",
        "threshold_norm": "none",
        "dropout": 0.0 if 5 in inner else 0.5,
        "upsampling": "transposed",
        "strided_padding": "torch",
        "output": "clip_residual",
        "unshuffle": 1,
        "kernel_init": "normal",
        "zero_head": False,
    }


def _foreign(path: Path, reason: str) -> InputError:
    return InputError(f"{path} holds no DeblurGAN generator: {reason}; give its latest_net_G.pth, the resnet of six, nine or other blocks.")


def _describe(place: Place) -> str:
    return f"layer {place[0]}" + (f".conv_block.{place[1]}" if place[1] is not None else "")


def _by_place(path: Path, tensors: dict[str, np.ndarray]) -> Layers:
    layers: Layers = {}
    for name, tensor in tensors.items():
        match = NAME.fullmatch(name)
        if not match:
            raise _foreign(path, f"it contains {name[:60]!r}; expected are names such as model.1.weight or model.10.conv_block.1.weight")
        number, inner, part = match.groups()
        layers.setdefault((int(number), None if inner is None else int(inner)), {})[part] = tensor
    return layers


class _Reader:
    """A converter of layers from the file's numbering to our variables. Layers that remain in `layers` at the end are unknown."""

    def __init__(self, path: Path, layers: Layers, *, batch: bool) -> None:
        self.path, self.layers, self.batch = path, layers, batch
        self.params: dict[str, Any] = {}
        self.batch_stats: dict[str, Any] = {}

    def read_generator(self, widths: tuple[int, ...], blocks: list[int], inner: list[int]) -> None:
        w0, w1, w2 = widths
        self.params["stem"] = {"conv": self._conv((1, None), 3, w0, size=7)}
        self.params["down1"] = self._conv((4, None), w0, w1)
        self.params["down2"] = self._conv((7, None), w1, w2)
        for place, name, features in (((2, None), "stem_norm", w0), ((5, None), "down1_norm", w1), ((8, None), "down2_norm", w2)):
            self._norm(place, features, name)
        for i, number in enumerate(blocks, start=1):
            for j, conv in enumerate(inner, start=1):
                self.params.setdefault(f"block{i}", {})[f"conv{j}"] = {"conv": self._conv((number, conv), w2, w2)}
                self._norm((number, conv + 1), w2, f"block{i}", f"norm{j}")
        last = blocks[-1]
        for name, number, into, features in (("up1", last + 1, w2, w1), ("up2", last + 4, w1, w0)):
            self.params[name] = self._conv((number, None), into, features, transposed=True)
            self._norm((number + 1, None), features, f"{name}_norm")
        self.params["head"] = {"conv": self._conv((last + 8, None), w0, 3, size=7)}

    def _conv(self, place: Place, into: int, features: int, *, size: int = 3, transposed: bool = False) -> dict[str, np.ndarray]:
        """Convert a transposed convolution, stored [in out h w]: the gradient of a convolution, so its kernel is rotated by 180 degrees."""
        stored = self.layers.pop(place, {})
        bias = stored.pop("bias", np.zeros(features, np.float32))  # pix2pix has no bias before batch norm
        self._check(place, stored, weight=(into, features, size, size) if transposed else (features, into, size, size))
        self._check(place, {"bias": bias}, bias=(features,))
        weight = stored["weight"]
        return {"kernel": weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1) if transposed else weight.transpose(2, 3, 1, 0), "bias": bias}

    def _norm(self, place: Place, features: int, *names: str) -> None:
        stored = self.layers.pop(place, {})
        stored.pop("num_batches_tracked", None)
        if not self.batch:
            if stored.keys() - set(STATISTICS):
                raise _foreign(self.path, f"the norm of layer {place[0]} has weights, but that of layer 2 has none")
            return
        self._check(place, stored, weight=(features,), bias=(features,), running_mean=(features,), running_var=(features,))
        mean, variance = stored["running_mean"], stored["running_var"]
        scale = stored["weight"] * np.sqrt((variance + OUR_EPSILON) / (variance + EPSILON))
        for tree, values in ((self.params, {"scale": scale, "bias": stored["bias"]}), (self.batch_stats, {"mean": mean, "var": variance})):
            for name in names[:-1]:
                tree = tree.setdefault(name, {})
            tree[names[-1]] = values

    def _check(self, place: Place, stored: dict[str, np.ndarray], **shapes: tuple[int, ...]) -> None:
        layer = _describe(place)
        if stored.keys() != shapes.keys():
            raise _foreign(self.path, f"{layer} has {', '.join(stored) or 'nothing'}, not {', '.join(shapes)}")
        for part, shape in shapes.items():
            if stored[part].shape != shape or stored[part].dtype.kind != "f":
                raise _foreign(self.path, f"the {part} of {layer} is {stored[part].dtype} {stored[part].shape}, not float {shape}")
            if not np.isfinite(stored[part]).all():
                raise _foreign(self.path, f"the {part} of {layer} has values that are not finite")
