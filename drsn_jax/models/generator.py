"""The generator: the paper's nine blocks at quarter resolution, or an encoder-decoder of the same blocks (SPEC section 1)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from drsn_jax.models.layers import KERNEL_INITS, Images, Norm, ReflectConv, ThresholdNorm, make_norm, strided_padding
from drsn_jax.models.shrinkage import ResidualShrinkageBlock
from drsn_jax.ops.backend import Forms, forms_here
from drsn_jax.ops.convolution import convolve, convolve_upsampled
from drsn_jax.ops.layout import Layout, convolve_zero_padded
from drsn_jax.ops.remat import rematerialise


class Generator(nn.Module):
    """A network that restores blurred images in [-1, 1], [b h w 3] -> [b h w 3]; height and width are multiples of `stride`.

    - `trunk` quarter is the paper's: 7x7 stem, two stride-2 convolutions, `num_blocks` blocks, two upsampling stages, 7x7 head.
    - `trunk` unet has blocks at three scales with skips. Each scale has `num_blocks` on the way down and again on the way up; the coarsest
      has `middle_blocks` more.
    - `unshuffle` first folds squares of that many pixels a side into channels, which moves the whole trunk to a coarser scale.
    - `output` clip_residual is clip(input + tanh); average is the Keras reference's (input + tanh) / 2.
    - Parameters are float32 and computation is in `dtype`. `layout` is the place of the image in the maps (`ops.layout`). `forms` selects
      how operations are computed (`ops.backend`).
    """

    trunk: Literal["quarter", "unet"] = "quarter"
    widths: tuple[int, int, int] = (64, 128, 256)
    num_blocks: int = 9
    middle_blocks: int = 0
    block_order: Literal["pre", "post"] = "pre"
    shrinkage: bool = True
    convs_per_block: Literal[1, 2] = 2
    norm: Norm = "batch"
    threshold_norm: ThresholdNorm = "none"
    dropout: float = 0.5
    upsampling: Literal["nearest", "transposed"] = "nearest"
    strided_padding: Literal["keras", "torch"] = "keras"
    output: Literal["clip_residual", "average"] = "clip_residual"
    unshuffle: Literal[1, 2, 4] = 1
    kernel_init: str = "glorot_uniform"
    zero_head: bool = False
    dtype: Any = jnp.float32
    remat: bool = False
    layout: Layout = None
    forms: Forms = dataclasses.field(default_factory=forms_here)

    @property
    def stride(self) -> int:
        """The number of pixels that divides the height and width of every input."""
        return 4 * self.unshuffle

    @nn.compact
    def __call__(self, blurred: Images, train: bool = False) -> Images:
        """Return restored images in [-1, 1], float32.

        With `train` the batch norms use the statistics of this batch and update the moving ones, and dropout needs an rng called `dropout`.
        Raises ValueError for sizes that are no multiples of `stride`, and for middle blocks outside the unet.
        """
        height, width = blurred.shape[1:3]
        if height % self.stride or width % self.stride:
            raise ValueError(f"Images of {height}x{width} do not fit the generator: use multiples of {self.stride}, or restoration.tiling.")
        if self.middle_blocks and self.trunk == "quarter":
            raise ValueError(f"middle_blocks={self.middle_blocks} is for the unet; use 0, or num_blocks for the quarter trunk.")
        x = pixel_unshuffle(blurred.astype(self.dtype), self.unshuffle)
        x = self._quarter(x, train) if self.trunk == "quarter" else self._unet(x, train)
        residual = jnp.tanh(pixel_shuffle(x, self.unshuffle).astype(jnp.float32))
        if self.output == "average":
            return (blurred + residual) / 2
        return jnp.clip(blurred + residual, -1, 1)

    def _block(self, train: bool, name: str) -> nn.Module:
        block = rematerialise(ResidualShrinkageBlock, forms=self.forms) if self.remat and train else ResidualShrinkageBlock
        return block(
            train=train,
            block_order=self.block_order,
            shrinkage=self.shrinkage,
            convs_per_block=self.convs_per_block,
            norm=self.norm,
            threshold_norm=self.threshold_norm,
            dropout=self.dropout,
            dtype=self.dtype,
            kernel_init=KERNEL_INITS[self.kernel_init],
            layout=self.layout,
            forms=self.forms,
            name=name,
        )

    def _norm_relu(self, x: jax.Array, train: bool, name: str) -> jax.Array:
        return nn.relu(make_norm(self.norm, train=train, dtype=self.dtype, name=name, layout=self.layout)(x))

    def _conv(self, features: int, kernel_size: int, name: str) -> nn.Module:
        init = KERNEL_INITS[self.kernel_init]
        return ReflectConv(features, kernel_size, dtype=self.dtype, kernel_init=init, layout=self.layout, forms=self.forms, name=name)

    def _head(self, x: jax.Array, kernel_size: int) -> jax.Array:
        # With a zero head the untrained generator is the identity, so training starts at the input's PSNR.
        init: Callable = nn.initializers.zeros if self.zero_head else KERNEL_INITS[self.kernel_init]
        features = 3 * self.unshuffle**2
        return ReflectConv(features, kernel_size, dtype=self.dtype, kernel_init=init, layout=self.layout, forms=self.forms, name="head")(x)

    def _down(self, x: jax.Array, features: int, name: str) -> jax.Array:
        padding = strided_padding(self.strided_padding, 3)
        init = KERNEL_INITS[self.kernel_init]
        options = {"kernel_init": init, "dtype": self.dtype, "conv_general_dilated": partial(convolve, forms=self.forms)}
        conv = nn.Conv(features, (3, 3), strides=2, padding=padding, name=name, **options)
        return convolve_zero_padded(conv, x, margin=2, layout=self.layout)

    def _up(self, x: jax.Array, features: int, name: str) -> jax.Array:
        options = partial(dict, kernel_init=KERNEL_INITS[self.kernel_init], dtype=self.dtype, name=name)
        if self.upsampling == "nearest":  # the paper's choice, against chessboard artefacts
            conv_fn = partial(convolve_upsampled, forms=self.forms)
            conv = nn.Conv(features, (3, 3), padding="SAME", conv_general_dilated=conv_fn, **options())
        else:  # DeblurGAN's choice: PyTorch's ConvTranspose2d(3, stride=2, padding=1, output_padding=1)
            conv = nn.ConvTranspose(features, (3, 3), strides=(2, 2), padding=((1, 2), (1, 2)), **options())
        return convolve_zero_padded(conv, x, margin=1, layout=self.layout)

    def _quarter(self, x: jax.Array, train: bool) -> jax.Array:
        x = self._norm_relu(self._conv(self.widths[0], 7, "stem")(x), train, "stem_norm")
        for i, features in enumerate(self.widths[1:], start=1):
            x = self._norm_relu(self._down(x, features, f"down{i}"), train, f"down{i}_norm")
        for i in range(1, self.num_blocks + 1):
            x = self._block(train, f"block{i}")(x)
        for i, features in enumerate(self.widths[-2::-1], start=1):
            x = self._norm_relu(self._up(x, features, f"up{i}"), train, f"up{i}_norm")
        return self._head(x, 7)

    def _unet(self, x: jax.Array, train: bool) -> jax.Array:
        skips = []
        for scale, features in enumerate(self.widths):
            x = self._conv(features, 3, "stem")(x) if scale == 0 else self._down(x, features, f"down{scale}")
            for i in range(1, self.num_blocks + 1):
                x = self._block(train, f"encoder{scale}_block{i}")(x)
            skips.append(x)
        for i in range(1, self.middle_blocks + 1):
            x = self._block(train, f"middle_block{i}")(x)
        for scale in reversed(range(len(self.widths) - 1)):
            x = self._up(x, self.widths[scale], f"up{scale}") + skips[scale]
            for i in range(1, self.num_blocks + 1):
                x = self._block(train, f"decoder{scale}_block{i}")(x)
        return self._head(x, 3)


def pixel_unshuffle(x: Shaped[Array, "b h w c"], factor: int) -> Shaped[Array, "b h//{factor} w//{factor} c*{factor}**2"]:
    """Fold squares of factor x factor pixels into channels. Height and width are multiples of `factor`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // factor, w // factor, factor * factor * c)


def pixel_shuffle(x: Shaped[Array, "b h w c"], factor: int) -> Shaped[Array, "b h*{factor} w*{factor} c//{factor}**2"]:
    """Unfold channels into squares of factor x factor pixels: the inverse of `pixel_unshuffle`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * factor, w * factor, c // factor**2)
