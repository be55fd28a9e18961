"""Values and derivatives of every class of shapes are XLA's, to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import drsn_jax_native
from drsn_jax_native import choice
from drsn_jax_native.plain import plain_forward

# name: maps [b h w c], kernel [kh kw c d], stride, pads
SHAPES = {
    "1x1": ((2, 9, 7, 16), (1, 1, 16, 24), (1, 1), ((0, 0), (0, 0))),
    "3x3 same": ((2, 12, 10, 16), (3, 3, 16, 16), (1, 1), ((1, 1), (1, 1))),
    "3x3 valid, after reflection": ((1, 18, 18, 32), (3, 3, 32, 32), (1, 1), ((0, 0), (0, 0))),
    "7x7 from 3": ((1, 22, 22, 3), (7, 7, 3, 16), (1, 1), ((0, 0), (0, 0))),
    "7x7 to 3": ((1, 22, 22, 16), (7, 7, 16, 3), (1, 1), ((3, 3), (3, 3))),
    "2x2 of folded upsampling": ((2, 10, 10, 16), (2, 2, 16, 32), (1, 1), ((0, 0), (0, 0))),
    "stride 2, Keras": ((2, 16, 16, 8), (3, 3, 8, 16), (2, 2), ((0, 1), (0, 1))),
    "stride 2, torch": ((2, 16, 16, 8), (3, 3, 8, 16), (2, 2), ((1, 1), (1, 1))),
    "stride 2, odd size": ((1, 15, 17, 8), (3, 3, 8, 8), (2, 2), ((1, 1), (1, 1))),
    "4x4, stride 2": ((2, 16, 16, 3), (4, 4, 3, 8), (2, 2), ((1, 1), (1, 1))),
    "strides that differ": ((1, 12, 12, 8), (3, 3, 8, 8), (2, 1), ((1, 0), (2, 1))),
    "a kernel larger than the map": ((1, 2, 3, 8), (5, 5, 8, 8), (1, 1), ((2, 2), (2, 2))),
    "rows and columns that no window sees": ((1, 12, 12, 8), (2, 2, 8, 8), (3, 3), ((0, 0), (0, 0))),
    "one channel": ((1, 9, 9, 1), (3, 3, 1, 1), (1, 1), ((1, 1), (1, 1))),
    "eight images": ((8, 8, 8, 20), (3, 3, 20, 20), (1, 1), ((1, 1), (1, 1))),
}
DTYPES = ["float32", "bfloat16"]
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}  # of the largest value


def assert_close(one, other, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max() + 1e-7)


def value_and_gradients(conv, x, kernel, weights):
    out, pullback = jax.vjp(conv, x, kernel)
    return out, pullback(weights)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients(name, dtype, draw):
    maps, size, stride, pads = SHAPES[name]
    x, kernel = draw(*maps, dtype=dtype), draw(*size, dtype=dtype)
    geometry = {"stride": stride, "pads": pads}
    exact = jax.eval_shape(lambda x, kernel: plain_forward(x, kernel, **geometry), x, kernel)
    weights = draw(*exact.shape, dtype=dtype)
    ours = jax.jit(lambda *args: value_and_gradients(lambda x, k: drsn_jax_native.convolve(x, k, **geometry), *args))
    assert ours.lower(x, kernel, weights).as_text().count("@drsn_") == 3, "all three are computed by oneDNN"
    # The reference in float32: sums in bfloat16 would be rounded.
    wide = [jnp.asarray(value, jnp.float32) for value in (x, kernel, weights)]
    theirs = jax.jit(lambda *args: value_and_gradients(lambda x, k: plain_forward(x, k, **geometry), *args))(*wide)
    assert_close(ours(x, kernel, weights), jax.tree.map(lambda value: value.astype(dtype), theirs), TOLERANCES[dtype])


def test_what_does_not_gain_is_computed_by_xla(draw):
    """XLA computes the forward pass of a result with few channels, and all of a small computation."""
    x, kernel = draw(1, 80, 80, 64), draw(7, 7, 64, 3)
    both = jax.jit(lambda x, kernel: jax.vjp(lambda *args: drsn_jax_native.convolve(*args), x, kernel)[1](draw(1, 74, 74, 3)))
    text = both.lower(x, kernel).as_text()
    assert "@drsn_input_gradient" in text
    assert "@drsn_kernel_gradient" in text
    forward = jax.jit(drsn_jax_native.convolve)
    assert "@drsn_" not in forward.lower(x, kernel).as_text()
    assert_close(forward(x, kernel), plain_forward(x, kernel, stride=(1, 1), pads=((0, 0), (0, 0))))
    assert "@drsn_" not in forward.lower(draw(1, 8, 8, 8), draw(3, 3, 8, 8)).as_text()
    assert "@drsn_convolve" in forward.lower(draw(1, 64, 64, 32), draw(3, 3, 32, 32)).as_text()


@pytest.mark.usefixtures("always")
def test_outside_jit_and_empty_batches(draw):
    x, kernel = draw(1, 8, 8, 8), draw(3, 3, 8, 8)
    assert_close(drsn_jax_native.convolve(x, kernel), plain_forward(x, kernel, stride=(1, 1), pads=((0, 0), (0, 0))))
    assert drsn_jax_native.convolve(x[:0], kernel).shape == (0, 6, 6, 8)


@pytest.mark.parametrize(
    ("maps", "size", "options", "told"),
    [
        ((8, 8, 8), (3, 3, 8, 8), {}, "do not fit"),
        ((1, 8, 8, 8), (3, 3, 4, 8), {}, "do not fit"),
        ((1, 8, 8, 8), (3, 3, 8, 8), {"stride": (0, 1)}, "strides of at least 1"),
        ((1, 8, 8, 8), (3, 3, 8, 8), {"pads": ((-1, 0), (0, 0))}, "pads of at least 0"),
        ((1, 2, 8, 8), (3, 3, 8, 8), {}, "larger than the padded map"),
    ],
)
def test_what_is_refused(maps, size, options, told, draw):
    with pytest.raises(ValueError, match=told):
        drsn_jax_native.convolve(draw(*maps), draw(*size), **options)


def test_types_are_refused(draw):
    with pytest.raises(ValueError, match="float16: give both in"):
        drsn_jax_native.convolve(draw(1, 8, 8, 8, dtype=jnp.float16), draw(3, 3, 8, 8, dtype=jnp.float16))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("units", [False, True])
def test_bfloat16_is_computed_in_float32_unless_there_are_matrix_units(units, draw, monkeypatch):
    monkeypatch.setattr(choice.library, "has_matrix_units", lambda: units)
    x, kernel = draw(1, 8, 8, 8, dtype=jnp.bfloat16), draw(3, 3, 8, 8, dtype=jnp.bfloat16)
    [call] = [
        line for line in jax.jit(lambda x, k: drsn_jax_native.convolve(x, k)).lower(x, kernel).as_text().splitlines() if "@drsn_" in line
    ]
    assert ("xbf16>" in call) == units
    assert ("xf32>" in call) == (not units)


def test_denormal_numbers_are_zero_inside_and_the_caller_keeps_its_own(draw):
    tiny = np.float32(1e-30)
    x = jnp.full((1, 64, 64, 32), 1e-20, jnp.float32)
    out = drsn_jax_native.convolve(x, jnp.full((3, 3, 32, 32), 1e-20, jnp.float32))
    assert float(lax.abs(out).max()) == 0
    assert np.multiply(tiny, np.float32(1e-10)) > 0
