"""Export of a generator as an ONNX file for one image size, through jax2onnx, imported inside functions."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from drsn_jax import __version__
from drsn_jax.interop.export import Images, check_size, without_source_paths
from drsn_jax.models.generator import Generator
from drsn_jax.ops.backend import PLAIN
from drsn_jax.system.errors import InputError
from drsn_jax.weights.onnx_files import INPUT, OUTPUT, describe_onnx, read_onnx


def convert_onnx(
    *, generator: Generator, variables: Mapping[str, Any], size: tuple[int, int], config: Mapping[str, Any], info: Mapping[str, Any]
) -> tuple[bytes, Callable[[Images], Images]]:
    """Return the bytes of an ONNX file for one image [1 h w 3] of one `size` in float32, and onnxruntime's results with it.

    The size is fixed, because the converter has no reflect padding of unknown sizes. Raises InputError for a size that is no multiple of
    the stride. Raises it also if jax2onnx or onnxruntime is missing, does not run with this jax, or refuses the network.
    """
    check_size(size, stride=generator.stride)
    onnx, to_onnx = _import_converter()
    # onnxruntime has no bfloat16 convolution on CPUs, and the converter does not support the operations of the CPU's forms.
    network = generator.clone(dtype=jnp.dtype("float32"), forms=PLAIN)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    program = jax.make_jaxpr(network.apply)(dict(variables), image)
    numbers = [np.asarray(leaf) for leaf in jax.tree.leaves(dict(variables))]
    try:
        with without_source_paths(), contextlib.redirect_stdout(io.StringIO()), _silent_logging():
            model = to_onnx(
                lambda images: _evaluate(program, [*numbers, images]),
                [image],
                input_names=[INPUT],
                output_names=[OUTPUT],
                model_name="drsn_jax",
            )
        versions = {"drsn_jax": __version__, "jax": jax.__version__}
        onnx.helper.set_model_props(model, describe_onnx(stride=generator.stride, config=config, info=info, versions=versions))
        content = model.SerializeToString()
    except Exception as error:  # the converter raises many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"jax2onnx cannot convert this network with jax {jax.__version__} ({reason}); {_ELSE}.") from error
    return content, read_onnx(content).predict_fn


_ELSE = "use --format=stablehlo, or tflite"


def _import_converter() -> tuple[Any, Any]:
    try:
        with _silent_logging():
            import onnx
            from jax2onnx import to_onnx
    except Exception as error:  # a newer jax lacks names that it imports
        text = "ONNX is written by jax2onnx 0.13, which needs jax 0.10 (on Python 3.11: pip install 'drsn-jax[onnx]')"
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{text}; this is jax {jax.__version__} ({reason}). {_ELSE.capitalize()}.") from error
    return onnx, to_onnx


@contextlib.contextmanager
def _silent_logging() -> Iterator[None]:
    """Silence jax2onnx, which logs a traceback for each of its parts that does not fit this jax. Most are irrelevant for generators."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _evaluate(program: ClosedJaxpr, arguments: list[Any]) -> Any:
    """Evaluate a program with one result; a convolution of a dilated input becomes one of an input with explicit zeros.

    jax2onnx would ignore the dilation. It also replaces Flax's layers by its own, which such a program does not call.
    """
    values = dict(zip(program.jaxpr.constvars, program.consts, strict=True)) | dict(zip(program.jaxpr.invars, arguments, strict=True))
    for equation in program.jaxpr.eqns:
        inputs = [atom.val if isinstance(atom, Literal) else values[atom] for atom in equation.invars]
        options = dict(equation.params)
        if equation.primitive is lax.conv_general_dilated_p and set(options["lhs_dilation"]) != {1}:
            inputs[0] = _spread(inputs[0], options["dimension_numbers"].lhs_spec, options["lhs_dilation"])
            options["lhs_dilation"] = (1,) * len(options["lhs_dilation"])
        outputs = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(options))
        values |= zip(equation.outvars, outputs if equation.primitive.multiple_results else [outputs], strict=True)
    [result] = program.jaxpr.outvars
    return values[result]


def _spread(images: jax.Array, spec: tuple[int, ...], dilation: tuple[int, ...]) -> jax.Array:
    """Insert `dilation - 1` zeros between neighbours along each spatial axis."""
    for axis, factor in zip(spec[2:], dilation, strict=True):
        shape = images.shape
        zeros = jnp.zeros((*shape[: axis + 1], factor - 1, *shape[axis + 1 :]), images.dtype)
        spread = jnp.concatenate([jnp.expand_dims(images, axis + 1), zeros], axis + 1)
        spread = spread.reshape(*shape[:axis], shape[axis] * factor, *shape[axis + 1 :])
        images = lax.slice_in_dim(spread, 0, (shape[axis] - 1) * factor + 1, axis=axis)
    return images
