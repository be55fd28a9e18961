"""Layers that generator and critic share: normalisation by name, convolutions by padding."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drsn_jax.ops.backend import Forms, forms_here
from drsn_jax.ops.convolution import convolve
from drsn_jax.ops.layout import Layout, mean_pixels, pad_by_reflection

Norm = Literal["batch", "instance", "layer", "none"]
ThresholdNorm = Literal["none", "layer", "batch"]  # one value per channel: an instance norm would make it 0
Module = Callable[..., Any]
Images = Float[Array, "b h w 3"]
Maps = Float[Array, "b h w c"]

KERNEL_INITS: dict[str, Callable] = {
    "glorot_uniform": nn.initializers.glorot_uniform(),  # Keras' default, assumed for the paper
    "he_normal": nn.initializers.he_normal(),
    "normal": nn.initializers.normal(0.02),  # DeblurGAN's
}


class InstanceNorm(nn.Module):
    """Normalisation of every channel of every image by its own mean and variance, without scale and bias, as in DeblurGAN."""

    dtype: Any = jnp.float32
    layout: Layout = None

    def __call__(self, x: Maps) -> Maps:
        """Return the normalised map in the shape of the input."""
        centred = x - mean_pixels(x, layout=self.layout)[:, None, None, :]
        variance = mean_pixels(centred**2, layout=self.layout)[:, None, None, :]
        return (centred * jax.lax.rsqrt(variance + 1e-5)).astype(self.dtype)


def make_norm(kind: Norm, *, train: bool, dtype: Any, name: str, layout: Layout = None) -> Callable[[jax.Array], jax.Array]:
    """Build a normalisation of the given kind and parameter name, inside a compact module.

    - `batch` follows Keras, so that weights and statistics convert exactly: momentum 0.99, epsilon 1e-3, two-pass variance. The one-pass
      form loses the variance of features with a mean far from zero.
    - `layer` normalises over the channels of each position.
    - `none` is the identity and has no parameters.
    """
    if kind == "batch":
        return nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3, use_fast_variance=False, dtype=dtype, name=name)
    if kind == "instance":
        return InstanceNorm(dtype=dtype, layout=layout, name=name)
    if kind == "layer":
        return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype, name=name)
    if kind == "none":
        return lambda x: x
    raise ValueError(f"Unknown normalisation {kind!r}; use one of batch, instance, layer, none.")


class ReflectConv(nn.Module):
    """A stride-1 convolution of odd size after padding by reflection. The output has the input's height and width."""

    features: int
    kernel_size: int
    dtype: Any = jnp.float32
    kernel_init: Callable = KERNEL_INITS["glorot_uniform"]
    layout: Layout = None
    forms: Forms = dataclasses.field(default_factory=forms_here)

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "b h w {self.features}"]:
        """Return the convolved map. Maps narrower than the padding are padded by repeated reflection."""
        margin = self.kernel_size // 2
        x = pad_by_reflection(x, margin, layout=self.layout)
        return nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            padding="VALID",
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            conv_general_dilated=partial(convolve, forms=self.forms),
            name="conv",
        )(x)


def strided_padding(padding: Literal["keras", "torch"], kernel_size: int) -> str | tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding of a stride-2 convolution: Keras' "same" pads bottom and right only (3x3, even size), PyTorch both sides."""
    if padding == "keras":
        return "SAME"
    margin = kernel_size // 2
    return ((margin, margin), (margin, margin))
