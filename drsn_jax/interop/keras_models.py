"""The generator and the dense critic of SPEC section 1 in idiomatic Keras, the baseline of `drsn-jax bench`.

They follow the description of the Keras DeblurGAN reference, with the paper's shrinkage blocks. Import this module inside functions: it
imports keras on the back end of KERAS_BACKEND (TensorFlow, JAX or PyTorch). Layers have the names of our parameters (`interop.keras`).
"""

from typing import Any, Literal, no_type_check

import keras
from keras import layers, ops

from drsn_jax.models.critic import DENSE_WIDTHS
from drsn_jax.models.vgg19 import BGR_MEANS
from drsn_jax.weights.vgg19 import load_vgg19

Norm = Literal["batch", "layer", "none"]
PACKAGE = "drsn_jax"  # registers the layers: with this module imported, keras.saving.load_model finds them


@keras.saving.register_keras_serializable(PACKAGE)
class ReflectionPadding2D(layers.Layer):
    """Padding of height and width by reflection without repeating the border, `margin` pixels on each side."""

    @no_type_check  # Keras inspects this function's signature, so the tests' type checker must not wrap it
    def __init__(self, margin: int, **options: Any):
        """Store `margin`."""
        super().__init__(**options)
        self.margin = margin

    def call(self, inputs: Any) -> Any:
        """Pad the maps: [b h w c] -> [b h+2m w+2m c]."""
        return ops.pad(inputs, ((0, 0), (self.margin, self.margin), (self.margin, self.margin), (0, 0)), mode="reflect")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the output shape, which jax cannot infer for a free height and width."""
        batch, height, width, channels = input_shape
        return batch, height and height + 2 * self.margin, width and width + 2 * self.margin, channels

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable(PACKAGE)
class SoftThreshold(layers.Layer):
    """sign(x) max(|x| - threshold, 0) for features [b h w c] and one threshold per channel [b c] (paper, section 3.2.2)."""

    def call(self, inputs: Any) -> Any:
        """Move the features towards zero."""
        features, thresholds = inputs
        return ops.sign(features) * ops.relu(ops.absolute(features) - thresholds[:, None, None, :])


@keras.saving.register_keras_serializable(PACKAGE)
class GlobalSkip(layers.Layer):
    """The generator's output from input and residual: clip_residual is clip(input + tanh), average (input + tanh) / 2."""

    @no_type_check  # as above
    def __init__(self, output_form: Literal["clip_residual", "average"] = "average", **options: Any):
        """Store `output_form`."""
        super().__init__(**options)
        self.output_form = output_form

    def call(self, inputs: Any) -> Any:
        """Add the two images."""
        total = inputs[0] + inputs[1]
        return total / 2 if self.output_form == "average" else ops.clip(total, -1.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild the layer."""
        return {**super().get_config(), "output_form": self.output_form}


def make_generator(
    *,
    widths: tuple[int, int, int] = (64, 128, 256),
    num_blocks: int = 9,
    block_order: Literal["pre", "post"] = "pre",
    shrinkage: bool = True,
    convs_per_block: Literal[1, 2] = 2,
    norm: Norm = "batch",
    threshold_norm: Norm = "batch",
    dropout: float = 0.5,
    output: Literal["clip_residual", "average"] = "average",
    image_size: tuple[int, int] | None = None,
) -> keras.Model:
    """Build the quarter-resolution generator, [b h w 3] -> [b h w 3] in [-1, 1]; the defaults are those of configs/keras_reference.py.

    `image_size` is height x width; None accepts any multiples of 4. With shrinkage=False and block_order="post" it is the DeblurGAN
    generator of the Keras reference. The keywords have the meaning of those of `drsn_jax.models.generator.Generator`.
    """
    inputs = keras.Input((*(image_size or (None, None)), 3), name="blurred")
    x = _norm_relu(_reflect_conv(inputs, widths[0], 7, "stem"), norm, "stem_norm")
    for i, features in enumerate(widths[1:], start=1):
        x = _norm_relu(_conv(features, 3, f"down{i}", strides=2, padding="same")(x), norm, f"down{i}_norm")
    for i in range(1, num_blocks + 1):
        residual = _residual(x, f"block{i}", block_order=block_order, convs=convs_per_block, norm=norm, dropout=dropout)
        if shrinkage:
            residual = SoftThreshold(name=f"block{i}_shrink")([residual, _thresholds(residual, threshold_norm, f"block{i}_threshold")])
        x = layers.Add(name=f"block{i}")([x, residual])
    for i, features in enumerate(widths[-2::-1], start=1):
        x = layers.UpSampling2D(2, interpolation="nearest", data_format="channels_last", name=f"up{i}_nearest")(x)
        x = _norm_relu(_conv(features, 3, f"up{i}", padding="same")(x), norm, f"up{i}_norm")
    residual = layers.Activation("tanh", name="residual")(_reflect_conv(x, 3, 7, "head"))
    return keras.Model(inputs, GlobalSkip(output, name="restored")([inputs, residual]), name="generator")


def make_critic(
    *,
    widths: tuple[int, ...] = DENSE_WIDTHS,
    critic_output: str = "sigmoid",
    dense_features: int = 1024,
    norm: Norm = "batch",
    image_size: int = 256,
) -> keras.Model:
    """Build the dense critic, [b s s 3] -> one score per image, [b 1]; `image_size` fixes its first dense layer."""
    inputs = x = keras.Input((image_size, image_size, 3), name="images")
    for i, features in enumerate(widths, start=1):
        x = _conv(features, 4, f"conv{i}", strides=1 if i == len(widths) else 2, padding="same")(x)
        if i > 1:
            x = _norm(norm, f"norm{i}", x)
        x = layers.LeakyReLU(negative_slope=0.2, name=f"relu{i}")(x)
    x = layers.Flatten(data_format="channels_last", name="flatten")(_conv(1, 4, f"conv{len(widths) + 1}", padding="same")(x))
    x = layers.Dense(dense_features, activation="tanh", name="dense1")(x)
    return keras.Model(inputs, layers.Dense(1, activation=critic_output, name="dense2")(x), name="critic")


def make_features(layer: str = "conv3_3", *, content_input: Literal["raw", "imagenet"] = "raw", vgg19: str = "") -> keras.Model:
    """Build Keras' own VGG19 up to `layer` (conv1_1 ... conv5_4, after its ReLU), frozen, with our weights or those of the file `vgg19`.

    raw feeds images in [-1, 1] unchanged, as the reference does. imagenet converts them to BGR, 0..255, minus the means.
    """
    params = load_vgg19(layer, vgg19)
    whole = keras.applications.VGG19(include_top=False, weights=None)  # pyright: ignore[reportArgumentType]
    for name, arrays in params.items():
        whole.get_layer(f"block{name[4]}_conv{name[6]}").set_weights([arrays["kernel"], arrays["bias"]])
    features = keras.Model(whole.inputs, whole.get_layer(f"block{layer[4]}_conv{layer[6]}").output, name="vgg19")
    if content_input == "imagenet":
        images = keras.Input((None, None, 3))
        bgr: Any = ops.flip(images, axis=-1)
        features = keras.Model(images, features((bgr + 1) * 127.5 - ops.array(BGR_MEANS, "float32")), name="vgg19_imagenet")
    features.trainable = False
    return features


def _conv(features: int, kernel_size: int, name: str, **options: Any) -> layers.Layer:
    return layers.Conv2D(features, kernel_size, data_format="channels_last", name=name, **options)


def _reflect_conv(x: Any, features: int, kernel_size: int, name: str) -> Any:
    return _conv(features, kernel_size, name)(ReflectionPadding2D(kernel_size // 2, name=f"{name}_pad")(x))


def _norm(kind: Norm, name: str, x: Any) -> Any:
    if kind == "batch":
        return layers.BatchNormalization(name=name)(x)  # Keras' defaults, epsilon 1e-3 and momentum 0.99, are those of SPEC
    return layers.LayerNormalization(epsilon=1e-5, name=name)(x) if kind == "layer" else x


def _norm_relu(x: Any, kind: Norm, name: str) -> Any:
    return layers.ReLU(name=f"{name}_relu")(_norm(kind, name, x))


def _residual(x: Any, name: str, *, block_order: str, convs: int, norm: Norm, dropout: float) -> Any:
    for i in range(1, convs + 1):
        if block_order == "pre":
            x = _reflect_conv(_norm_relu(x, norm, f"{name}_norm{i}"), x.shape[-1], 3, f"{name}_conv{i}")
        else:
            x = _norm(norm, f"{name}_norm{i}", _reflect_conv(x, x.shape[-1], 3, f"{name}_conv{i}"))
            x = layers.ReLU(name=f"{name}_relu{i}")(x) if i == 1 else x
        x = layers.Dropout(dropout, name=f"{name}_dropout")(x) if i == 1 else x
    return x


def _thresholds(residual: Any, norm: Norm, name: str) -> Any:
    """Compute thresholds alpha mean|r|, with alpha in (0, 1) from two dense layers. [b h w c] -> [b c]."""
    magnitude = layers.GlobalAveragePooling2D(data_format="channels_last", name=f"{name}_magnitude")(ops.absolute(residual))
    x = _norm_relu(layers.Dense(residual.shape[-1], name=f"{name}_dense1")(magnitude), norm, f"{name}_norm")
    alpha = layers.Dense(residual.shape[-1], activation="sigmoid", name=f"{name}_dense2")(x)
    return layers.Multiply(name=name)([alpha, magnitude])
