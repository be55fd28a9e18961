"""Export of a generator as a TensorFlow SavedModel or a TFLite file, through jax2tf. TensorFlow is imported inside functions."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from drsn_jax.interop.export import SMALLEST, Images, apply_on_platform, check_size, without_source_paths
from drsn_jax.models.generator import Generator
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import appearing


def write_saved_model(
    folder: Path, *, generator: Generator, variables: Mapping[str, Any], platforms: Sequence[str], check_fn: Callable[[Callable], None]
) -> None:
    """Write a SavedModel. Its `serving_default` maps `images`, float32 [b h w 3] in [-1, 1], to `restored`. Sizes: see `export_stablehlo`.

    `check_fn` is called with a function that runs the written model; if it raises, the folder is removed. Raises InputError if `folder`
    exists, and if TensorFlow or jax2tf is missing, or too old for this jax.
    """
    tf, jax2tf = _import_tensorflow()
    sizes = f"(b, {generator.stride}*h, {generator.stride}*w, 3)"
    apply_fn = jax2tf.convert(
        partial(apply_on_platform, generator, platforms=tuple(platforms)),
        with_gradient=False,  # with gradients the sizes would have to be fixed
        polymorphic_shapes=[None, sizes],
        polymorphic_constraints=(f"h >= {SMALLEST}", f"w >= {SMALLEST}"),
        native_serialization_platforms=tuple(platforms),
    )
    module = tf.Module()
    module.weights = jax.tree.map(lambda x: tf.Variable(np.asarray(x), trainable=False), dict(variables))
    signature = [tf.TensorSpec([None, None, None, 3], tf.float32, name="images")]
    module.restore = tf.function(lambda images: {"restored": apply_fn(module.weights, images)}, autograph=False, input_signature=signature)
    try:
        with appearing(folder, overwrite=False) as temporary:
            with without_source_paths():
                tf.saved_model.save(module, str(temporary), signatures={"serving_default": module.restore})
            saved = tf.saved_model.load(str(temporary)).signatures["serving_default"]
            check_fn(lambda images: saved(images=tf.constant(images))["restored"].numpy())
    except FileExistsError as error:
        raise InputError(f"{folder} already exists; choose another --output.") from error
    except tf.errors.OpError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"TensorFlow {tf.__version__} is too old for jax {jax.__version__} ({reason}); use --format=stablehlo or"
            " tflite, a newer TensorFlow, or an older jax."
        ) from error


def convert_tflite(
    *, generator: Generator, variables: Mapping[str, Any], size: tuple[int, int]
) -> tuple[bytes, Callable[[Images], Images]]:
    """Return the bytes of a TFLite file for one image [1 h w 3] of one `size`, and its results.

    The size is fixed, because TFLite's converter has no reflect padding of unknown sizes. Raises InputError for a size that is no multiple
    of the stride, and for a network that the converter refuses. Raises it also if TensorFlow or jax2tf is missing.
    """
    check_size(size, stride=generator.stride)
    tf, jax2tf = _import_tensorflow()
    apply_fn = jax2tf.convert(
        partial(apply_on_platform, generator, dict(variables), platforms=("cpu",)),
        with_gradient=False,
        native_serialization_platforms=("cpu",),
    )
    signature = [tf.TensorSpec([1, *size, 3], tf.float32, name="images")]
    try:
        with without_source_paths():
            function = tf.function(apply_fn, autograph=False, input_signature=signature).get_concrete_function()
        content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    except Exception as error:  # the converter raises several types
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"TFLite cannot express this network ({reason}); use --format=stablehlo or savedmodel.") from error
    return content, partial(_run_tflite, tf, content)


def _run_tflite(tf: Any, content: bytes, images: Images) -> Images:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's warning that its interpreter will move
        interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _import_tensorflow() -> tuple[Any, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise InputError(f"SavedModel and TFLite need TensorFlow ({error}): pip install 'drsn-jax[data]'.") from error
    try:
        from jax.experimental import jax2tf
    except ImportError as error:
        raise InputError(f"jax {jax.__version__} no longer has jax2tf ({error}); use --format=stablehlo, or an older jax.") from error
    tf.config.set_visible_devices([], "GPU")  # it would allocate the memory that jax needs
    return tf, jax2tf
