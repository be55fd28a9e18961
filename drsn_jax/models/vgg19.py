"""VGG19's convolutional features, for the content loss (paper, section 4.2; Simonyan & Zisserman 2015)."""

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float

from drsn_jax.ops.backend import Forms, forms_here
from drsn_jax.ops.convolution import convolve

BLOCK_SIZES = (2, 2, 4, 4, 4)
BLOCK_WIDTHS = (64, 128, 256, 512, 512)
LAYERS = tuple(f"conv{block}_{i}" for block, size in enumerate(BLOCK_SIZES, start=1) for i in range(1, size + 1))
BGR_MEANS = (103.939, 116.779, 123.68)


class VGG19(nn.Module):
    """Features of images in [-1, 1] after the ReLU of `layer` (conv1_1 ... conv5_4), before the pooling that follows it.

    `content_input` raw feeds [-1, 1] RGB unchanged, as both references of the paper do. imagenet converts to the network's training input:
    BGR, 0..255, minus the means. `dtype` applies to all convolutions but the first, which is in float32. Of `forms` only the one for
    kernel gradients is left out: the weights are frozen, so it would gain nothing, and features stay differentiable in both modes.
    """

    layer: str = "conv3_3"
    content_input: Literal["raw", "imagenet"] = "raw"
    dtype: Any = jnp.float32
    forms: Forms = dataclasses.field(default_factory=forms_here)

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        """Return the features, each >= 0, at 1 / 2^(block - 1) of the height and width. Raises ValueError for an unknown layer."""
        if self.layer not in LAYERS:
            raise ValueError(f"VGG19 has no layer {self.layer!r}; use one of {', '.join(LAYERS)}.")
        exact = np.promote_types(self.dtype, np.float32)
        x = jnp.asarray(images).astype(exact)
        if self.content_input == "imagenet":
            x = (x[..., ::-1] + 1) * 127.5
            x -= jnp.broadcast_to(jnp.array(BGR_MEANS, x.dtype), x.shape)
        conv_fn = partial(convolve, forms=dataclasses.replace(self.forms, multiply_kernel_gradients=False))
        for name in LAYERS[: LAYERS.index(self.layer) + 1]:
            block = int(name[4])
            if block > 1 and name.endswith("_1"):
                x = max_pool(x)
            # Pixels minus their mean reach 151, where bfloat16 merges neighbouring values. Later features are less sensitive.
            options = {"dtype": exact, "precision": Precision.HIGHEST} if name == LAYERS[0] else {"dtype": self.dtype}
            conv = nn.Conv(BLOCK_WIDTHS[block - 1], (3, 3), padding="SAME", conv_general_dilated=conv_fn, name=name, **options)
            x = nn.relu(conv(x)).astype(self.dtype)
        return x


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """Take the maximum of each square of 2x2 pixels; an odd last row or column is dropped.

    It is computed as the maximum of four maps instead of a window. On XLA's CPU back end the gradient at 256x256 and 64 channels then takes
    4 ms instead of 47 (unmeasured elsewhere). Two equal pixels share the gradient; a window would give it to the first.
    """
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
    return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])
