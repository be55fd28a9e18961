"""The convolution that computes its kernel gradient by matrix products: values, first and second derivatives are those of lax."""

import dataclasses
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from networks import quick_compiles  # noqa: F401

from drsn_jax.ops import convolution
from drsn_jax.ops.backend import CPU, PLAIN
from drsn_jax.ops.convolution import upsample_nearest

NUMBERS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


XLA = dataclasses.replace(CPU, native=False)  # its forms where oneDNN is not installed
convolve, convolve_upsampled = (partial(function, forms=XLA) for function in (convolution.convolve, convolution.convolve_upsampled))


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


# (_SMALL, _WIDE): small maps by lax's own rule; all by windows of the map, transposed one by one or the gradient once
LIMITS = [(1024, 256), (0, 256), (0, 1)]


@contextmanager
def choosing_by(limits):
    """Choose the forms by other limits, because the maps here are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_SMALL", limits[0])
        patch.setattr(convolution, "_WIDE", limits[1])
        yield


def both(x, kernel, weights, padding="SAME", strides=(1, 1)):
    """Return (value, gradients of a weighted sum) by `convolve` and by lax."""
    results = []
    for function in (convolve, lax.conv_general_dilated):

        def loss(x, kernel, function=function):
            out = function(x, kernel, strides, padding, **NUMBERS)
            return (out * weights[: out.shape[0], : out.shape[1], : out.shape[2]]).sum(), out

        results.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, kernel))
    return results


def assert_close(one, other, rtol=2e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=rtol * float(np.abs(b).max()) + 1e-6)


@settings(max_examples=16, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.sampled_from([(9, 10), (9, 3), (12, 8), (9, 9), (3, 9)]),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["SAME", ((0, 1), (2, 0)), ((1, 1), (3, 2))]),
    limits=st.sampled_from(LIMITS),
)
def test_values_and_gradients_are_those_of_lax(size, kernel, channels, stride, padding, limits):
    """Even and odd kernels, larger than the map too; few channels out take the other form, few in are passed on."""
    x, weights = draw(*size, channels[0]), draw(*kernel, *channels, seed=1)
    shape = jax.eval_shape(lambda x, k: lax.conv_general_dilated(x, k, (stride, stride), padding, **NUMBERS), x, weights).shape
    assume(min(shape) > 0)
    with choosing_by(limits):
        (value, gradients), (expected, expected_gradients) = both(x, weights, draw(*shape, seed=2), padding, (stride, stride))
    assert_close(value, expected)
    assert_close(gradients, expected_gradients)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize(("channels", "size", "stride"), [((16, 12), 3, 1), ((16, 3), 3, 1), ((16, 12), 3, 2), ((16, 12), 4, 2)])
def test_second_derivatives_are_those_of_lax(channels, size, stride, limits):
    """A gradient penalty differentiates the gradient."""
    x, kernel = draw(1, 6, 5, channels[0]), draw(size, size, *channels, seed=1)
    weights = draw(1, -(-6 // stride), -(-5 // stride), channels[1], seed=2)

    def penalty(kernel, function):
        gradient = jax.grad(lambda x: (jnp.tanh(function(x, kernel, (stride, stride), "SAME", **NUMBERS)) * weights).sum())(x)
        return (gradient**2).sum()

    with choosing_by(limits):
        assert_close(*(jax.jit(jax.grad(penalty), static_argnums=1)(kernel, function) for function in (convolve, lax.conv_general_dilated)))


@pytest.mark.parametrize(
    ("shape", "options", "takes"),
    [
        ((3, 3, 16, 16), {}, True),
        ((3, 3, 16, 16), {"padding": ((1, 1), (1, 1))}, True),
        ((4, 4, 16, 16), {"padding": ((1, 2), (1, 2))}, True),
        ((3, 3, 16, 16), {"strides": (2, 2)}, True),
        ((3, 3, 16, 16), {"strides": (1, 2)}, False),
        ((3, 3, 16, 16), {"feature_group_count": 1}, True),
        ((3, 3, 16, 32), {"feature_group_count": 2, "x": 32}, False),
        ((3, 3, 16, 16), {"rhs_dilation": (2, 2)}, False),
        ((3, 3, 8, 16), {}, False),
        ((1, 1, 16, 16), {}, False),
        ((3, 3, 16, 16), {"dtype": jnp.bfloat16}, False),
    ],
)
def test_only_what_it_is_for_takes_the_other_way(shape, options, takes, monkeypatch):
    taken = []
    monkeypatch.setattr(convolution, "_convolve", lambda x, kernel, stride, pads: taken.append(1) or x)
    options = {"strides": (1, 1), "padding": "SAME"} | options
    dtype = options.pop("dtype", jnp.float32)
    x, kernel = jax.ShapeDtypeStruct((1, 12, 12, options.pop("x", shape[2])), dtype), jax.ShapeDtypeStruct(shape, dtype)
    jax.eval_shape(lambda x, kernel: convolve(x, kernel, **options, **NUMBERS), x, kernel)
    assert bool(taken) == takes


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.setattr(convolution, "_convolve", pytest.fail)
    assert convolution.convolve(draw(1, 4, 4, 16), draw(3, 3, 16, 16), (1, 1), "SAME", forms=PLAIN, **NUMBERS).shape == (1, 4, 4, 16)


def upsampled_by_lax(x, kernel, strides, padding, **options):
    return lax.conv_general_dilated(x.repeat(2, axis=1).repeat(2, axis=2), kernel, strides, padding, **options)


@settings(max_examples=6, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 6)),
    channels=st.sampled_from([(9, 10), (9, 1), (3, 9), (12, 2)]),
)
def test_folded_upsampling_is_a_convolution_of_the_doubled_map(size, channels):
    """Borders included, maps of one pixel too; values and both gradients."""
    x, kernel = draw(*size, channels[0]), draw(3, 3, *channels, seed=1)
    weights = draw(size[0], 2 * size[1], 2 * size[2], channels[1], seed=2)

    def differentiate(function):
        def loss(x, kernel):
            out = function(x, kernel, (1, 1), "SAME", **NUMBERS)
            return (out * weights).sum(), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)

    (value, gradients), (expected, expected_gradients) = differentiate(convolve_upsampled), differentiate(upsampled_by_lax)
    assert_close(value, expected)
    assert_close(gradients, expected_gradients)


def test_folded_upsampling_does_half_the_work():
    """4/9 of the multiply-adds, and a border of one pixel."""
    x, kernel = draw(1, 32, 32, 16), draw(3, 3, 16, 12)
    operations = [
        jax.jit(lambda x, k, f=f: f(x, k, (1, 1), "SAME", **NUMBERS)).lower(x, kernel).cost_analysis()["flops"]
        for f in (convolve_upsampled, upsampled_by_lax)
    ]
    assert operations[0] < 0.52 * operations[1]


def test_elsewhere_the_doubled_map_is_convolved():
    x, kernel = draw(1, 4, 5, 16), draw(3, 3, 16, 12, seed=1)
    expected = convolve(upsample_nearest(x), kernel, (1, 1), "SAME", **NUMBERS)
    unfolded = dataclasses.replace(XLA, fold_upsampling=False)
    result = convolution.convolve_upsampled(x, kernel, (1, 1), "SAME", forms=unfolded, **NUMBERS)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("limits", LIMITS)
def test_every_form_is_taken(limits, monkeypatch):
    """Of what the limits are for: else the comparisons above would compare lax with itself."""
    taken = []
    multiply = convolution._multiply_windows
    monkeypatch.setattr(convolution, "_multiply_windows", lambda *arguments, **options: taken.append(1) or multiply(*arguments, **options))
    with choosing_by(limits):
        both(draw(1, 6, 5, 16), draw(3, 3, 16, 12, seed=1), draw(1, 6, 5, 12, seed=2))
    assert bool(taken) == (limits[0] == 0)
