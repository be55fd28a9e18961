"""The critic, called discriminator in the paper (section 3.2.3), with the Keras reference's dense head or PatchGAN's (SPEC section 1)."""

import dataclasses
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drsn_jax.models.layers import KERNEL_INITS, Images, Norm, make_norm
from drsn_jax.ops.backend import Forms, forms_here
from drsn_jax.ops.convolution import convolve

DENSE_WIDTHS = (64, 64, 128, 256, 512)
PATCH_WIDTHS = (64, 128, 256, 512)


class Critic(nn.Module):
    """A network that scores images in [-1, 1], [b h w 3] -> [b]; a higher score means more like a sharp photograph.

    4x4 convolutions, all but the last two with stride 2, LeakyReLU 0.2, normalisation in between. The head `dense` is Dense 1024, tanh and
    Dense 1. It is bound to the image size of its initialisation (256x256 in the paper). The head `patch` averages the scores of overlapping
    patches and takes any size. `critic_output` sigmoid bounds the scores to (0, 1), as in the paper.
    """

    head: Literal["dense", "patch"] = "dense"
    widths: tuple[int, ...] = DENSE_WIDTHS
    norm: Norm = "batch"
    critic_output: Literal["sigmoid", "linear"] = "sigmoid"
    dense_features: int = 1024
    kernel_init: str = "glorot_uniform"
    dtype: Any = jnp.float32
    forms: Forms = dataclasses.field(default_factory=forms_here)

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, " b"]:
        """Return one float32 score per image, [b]. With `train` batch norms use the statistics of this batch and update the moving ones."""
        x = images.astype(self.dtype)
        last = len(self.widths)
        for i, features in enumerate(self.widths, start=1):
            x = self._conv(x, features, stride=1 if i == last else 2, name=f"conv{i}")
            if i > 1:
                x = make_norm(self.norm, train=train, dtype=self.dtype, name=f"norm{i}")(x)
            x = nn.leaky_relu(x, 0.2)
        x = self._conv(x, 1, stride=1, name=f"conv{last + 1}").astype(jnp.float32)  # [b h w 1]
        if self.head == "dense":
            init = KERNEL_INITS[self.kernel_init]
            x = jnp.tanh(nn.Dense(self.dense_features, kernel_init=init, name="dense1")(x.reshape(len(x), -1)))
            x = nn.Dense(1, kernel_init=init, name="dense2")(x)
        scores = nn.sigmoid(x) if self.critic_output == "sigmoid" else x
        return scores.reshape(len(scores), -1).mean(-1)

    def _conv(self, x: jax.Array, features: int, stride: int, name: str) -> jax.Array:
        # PatchGAN has no bias before batch norm, which would remove it. The Keras reference has a bias everywhere.
        cancelled = self.head == "patch" and self.norm == "batch" and name not in ("conv1", f"conv{len(self.widths) + 1}")
        init = KERNEL_INITS[self.kernel_init]
        options = {"use_bias": not cancelled, "kernel_init": init, "dtype": self.dtype}
        conv_fn = partial(convolve, forms=self.forms)
        return nn.Conv(features, (4, 4), strides=stride, padding="SAME", conv_general_dilated=conv_fn, name=name, **options)(x)
