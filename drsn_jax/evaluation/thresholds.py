"""Maps of the thresholds over an image: the share of a block's features that become zero at each position."""

import io
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from drsn_jax.evaluation.report.figures import import_figure
from drsn_jax.models.generator import Generator
from drsn_jax.models.shrinkage import ThresholdNet
from drsn_jax.system.errors import InputError

MOST_PIXELS = 1024
"""Maximum side, because the whole image passes through the network at once."""


def removed_shares(generator: Generator, variables: Any, image: Float[Array, "h w 3"]) -> dict[str, Float[Array, "h2 w2"]]:
    """Return the share of channels at each position with |residual| <= threshold, by block in order; each map has its block's resolution.

    The image is in [-1, 1], its sides multiples of `generator.stride`. Pure, so it can be jitted. Empty without shrinkage.
    """
    shares = {}

    def record(method: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        result = method(*args, **kwargs)
        if isinstance(context.module, ThresholdNet) and context.method_name == "__call__":
            shares[context.module.path[0]] = (jnp.abs(args[0]) <= result).mean(-1, dtype=jnp.float32)[0]
        return result

    with nn.intercept_methods(record):
        generator.apply(variables, image[None])
    return shares


def map_thresholds(generator: Generator, variables: Any, image: UInt8[np.ndarray, "h w 3"]) -> dict[str, Float[np.ndarray, "h2 w2"]]:
    """Compute `removed_shares` of a photograph, cropped to multiples of the stride; at most `MOST_PIXELS` a side (`crop_middle`).

    Raises InputError for a model without thresholds, and for an image smaller than the stride.
    """
    height, width = (size // generator.stride * generator.stride for size in image.shape[:2])
    if not min(height, width):
        raise InputError(
            f"The image is {image.shape[1]}x{image.shape[0]} pixels; give one of {generator.stride}x{generator.stride} or more."
        )
    values = jnp.asarray(image[:height, :width], jnp.float32) / 127.5 - 1
    names: list[str] = []  # in the network's order, because jax sorts returned dictionaries

    def shares_fn(variables: Any, image: jax.Array) -> tuple[jax.Array, ...]:
        shares = removed_shares(generator, variables, image)
        names.extend(shares)
        return tuple(shares.values())

    shares = jax.jit(shares_fn)(variables, values)
    if not shares:
        raise InputError("This model has no thresholds (shrinkage=False); give one with shrinkage.")
    return {name: np.asarray(share) for name, share in zip(names, shares, strict=True)}


def crop_middle(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Crop the middle of an image, at most `MOST_PIXELS` a side."""
    top, left = (max(size - MOST_PIXELS, 0) // 2 for size in image.shape[:2])
    return image[top : top + MOST_PIXELS, left : left + MOST_PIXELS]


def draw_maps(
    image: UInt8[np.ndarray, "h w 3"], shares: Mapping[str, Float[np.ndarray, "h2 w2"]], *, title: str, file_format: str = "png"
) -> bytes:
    """Draw the image, and a heat map over it for each block with its mean share, as a PNG, SVG or PDF file.

    Raises InputError if matplotlib is missing.
    """
    columns = min(4, len(shares) + 1)
    rows = -(-(len(shares) + 1) // columns)
    height, width = image.shape[:2]
    figure = import_figure()(figsize=(3.2 * columns, 3.2 * rows * height / width + 0.6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    panels[0].imshow(image)
    panels[0].set_title("image", fontsize=9)
    grey = image.mean(-1) / 255
    drawn = None
    for axes, (name, share) in zip(panels[1:], shares.items(), strict=False):
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1)
        drawn = axes.imshow(share, cmap="magma", vmin=0, vmax=1, alpha=0.75, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axes.set_title(f"{name}: {share.mean():.0%}", fontsize=9)
    for axes in panels:
        axes.set_axis_off()
    figure.colorbar(drawn, ax=list(panels), label="share of features set to zero", shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, dpi=130)
    return buffer.getvalue()
