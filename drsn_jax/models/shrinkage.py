"""Soft thresholding and the residual shrinkage block (paper, section 3.2.2; SPEC section 1)."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from drsn_jax.models.layers import KERNEL_INITS, Maps, Norm, ReflectConv, ThresholdNorm, make_norm
from drsn_jax.ops.backend import Forms, forms_here
from drsn_jax.ops.layout import Layout, mean_pixels

THRESHOLDS = "thresholds"  # the Flax collection of the thresholds


def soft_threshold(x: Float[Array, "b *dims c"], threshold: Float[Array, "..."]) -> Float[Array, "b *dims c"]:
    """Move every value towards zero by `threshold` >= 0, and to zero if it is smaller: sign(x) max(|x| - threshold, 0).

    The threshold's shape broadcasts to that of x. Features near zero vanish, and unlike under ReLU useful negative ones survive
    (paper, section 3.2.2).
    """
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0)


class ThresholdNet(nn.Module):
    """Channel-wise thresholds alpha * mean|r|, where two dense layers learn alpha in (0, 1) from mean|r| itself."""

    norm: ThresholdNorm
    train: bool
    dtype: Any = jnp.float32
    kernel_init: Callable = KERNEL_INITS["glorot_uniform"]
    layout: Layout = None

    @nn.compact
    def __call__(self, residual: Maps) -> Float[Array, "b 1 1 c"]:
        """Return the thresholds. Each is below the mean magnitude of its channel, so no channel is removed completely."""
        channels = residual.shape[-1]
        # The mean over a large map needs float32: bfloat16 has eight bits, and this decides what is noise.
        magnitude = mean_pixels(jnp.abs(residual), layout=self.layout).astype(self.dtype)  # [b c]
        x = nn.Dense(channels, kernel_init=self.kernel_init, dtype=self.dtype, name="dense1")(magnitude)
        x = nn.relu(make_norm(self.norm, train=self.train, dtype=self.dtype, name="norm")(x))
        x = nn.Dense(channels, kernel_init=self.kernel_init, dtype=self.dtype, name="dense2")(x)
        threshold = (nn.sigmoid(x) * magnitude)[:, None, None, :]
        self.sow(THRESHOLDS, "threshold", threshold.astype(jnp.float32)[:, 0, 0, :])
        return threshold


class ResidualShrinkageBlock(nn.Module):
    """The block x + soft_threshold(r(x)), where r is one or two reflect-padded 3x3 convolutions.

    `block_order` pre is the paper's (norm and ReLU before each convolution), post the classic one. Without `shrinkage` the block is
    DeblurGAN's residual block. Dropout follows the first convolution (pre) or its ReLU (post).
    """

    train: bool
    block_order: Literal["pre", "post"] = "pre"
    shrinkage: bool = True
    convs_per_block: Literal[1, 2] = 2
    norm: Norm = "batch"
    threshold_norm: ThresholdNorm = "none"
    dropout: float = 0.5
    dtype: Any = jnp.float32
    kernel_init: Callable = KERNEL_INITS["glorot_uniform"]
    layout: Layout = None
    forms: Forms = dataclasses.field(default_factory=forms_here)

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Return the block's output and sow its thresholds into the collection `thresholds`."""
        residual = self._residual(x)
        if self.shrinkage:
            threshold = ThresholdNet(self.threshold_norm, self.train, self.dtype, self.kernel_init, self.layout, name="threshold")(residual)
            residual = soft_threshold(residual, threshold)
        return x + residual

    def _residual(self, x: Maps) -> Maps:
        channels = x.shape[-1]
        for i in range(1, self.convs_per_block + 1):
            norm = make_norm(self.norm, train=self.train, dtype=self.dtype, name=f"norm{i}", layout=self.layout)
            conv = ReflectConv(channels, 3, self.dtype, self.kernel_init, self.layout, self.forms, name=f"conv{i}")
            x = conv(nn.relu(norm(x))) if self.block_order == "pre" else norm(conv(x))
            if self.block_order == "post" and i == 1:  # no ReLU after the last of two: the residual may be negative
                x = nn.relu(x)
            if i == 1:
                x = nn.Dropout(self.dropout, deterministic=not self.train)(x)
        return x
