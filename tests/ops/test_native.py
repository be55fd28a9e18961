"""Which convolutions go to the optional oneDNN extension, and what is said where it is missing, broken or switched off."""

import dataclasses
import sys
import types
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import export
from networks import quick_compiles  # noqa: F401

from drsn_jax.config.build import make_keys, make_training
from drsn_jax.config.files import load_config
from drsn_jax.models.vgg19 import VGG19
from drsn_jax.ops import convolution, native
from drsn_jax.ops.backend import CPU, PLAIN, forms_for
from drsn_jax.system.extension import find_extension

NUMBERS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
convolve = partial(convolution.convolve, forms=CPU)
find = find_extension.__wrapped__  # asks again each time


@pytest.fixture
def asked(monkeypatch):
    """Install an extension that returns zeros and records its calls."""
    calls = []

    def answer(x, kernel, *, stride, pads):
        calls.append((stride, pads))
        sizes = zip(x.shape[1:3], kernel.shape[:2], stride, pads, strict=True)
        return jnp.zeros((len(x), *((n + sum(pad) - k) // step + 1 for n, k, step, pad in sizes), kernel.shape[3]), x.dtype)

    module = types.SimpleNamespace(supports=lambda dtype: dtype == jnp.float32, convolve=answer)
    monkeypatch.setattr(native, "_module", module)
    return calls


@pytest.mark.parametrize(
    ("strides", "padding", "stride", "pads"),
    [
        ((1, 1), "VALID", (1, 1), ((0, 0), (0, 0))),
        ((1, 1), "SAME", (1, 1), ((1, 1), (1, 1))),
        ((2, 2), "SAME", (2, 2), ((0, 1), (0, 1))),
        ((2, 1), ((1, 2), (0, 3)), (2, 1), ((1, 2), (0, 3))),
    ],
)
def test_strides_and_paddings_are_handed_over(strides, padding, stride, pads, asked):
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    out = convolve(x, kernel, strides, padding, **NUMBERS)
    assert asked == [(stride, pads)]
    assert out.shape == jax.lax.conv_general_dilated(x, kernel, strides, padding, **NUMBERS).shape
    assert not out.any()


@pytest.mark.parametrize(
    ("dtype", "channels", "options"),
    [
        ("bfloat16", 4, {}),  # which this extension does not support
        ("float32", 4, {"lhs_dilation": (2, 2)}),
        ("float32", 4, {"rhs_dilation": (2, 2)}),
        ("float32", 2, {"feature_group_count": 2}),
    ],
)
def test_what_is_not_handed_over(dtype, channels, options, asked):
    x, kernel = jnp.ones((1, 8, 8, 4), dtype), jnp.ones((3, 3, channels, 4), dtype)
    pads = ((1, 1), (1, 1))
    out = convolve(x, kernel, (1, 1), pads, **options, **NUMBERS)
    np.testing.assert_array_equal(out, jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, **options, **NUMBERS))
    assert not asked


def test_other_platforms_counting_and_open_sizes_are_left_alone(asked):
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    for forms in (forms_for("cuda"), PLAIN):
        assert convolution.convolve(x, kernel, (1, 1), "SAME", forms=forms, **NUMBERS).any()
    (side,) = export.symbolic_shape("side")
    open_x = jax.ShapeDtypeStruct((1, side, side, 4), jnp.float32)
    export.export(jax.jit(lambda x: convolve(x, kernel, (1, 1), "SAME", **NUMBERS)))(open_x)
    assert not asked


def test_every_convolution_of_vgg19_is_handed_over(asked):
    variables = VGG19("conv2_1").init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    asked.clear()
    VGG19("conv2_1", forms=CPU).apply(variables, jnp.ones((1, 8, 8, 3)))
    assert asked == [((1, 1), ((1, 1), (1, 1)))] * 3
    asked.clear()
    assert VGG19("conv2_1", forms=PLAIN).apply(variables, jnp.ones((1, 8, 8, 3))).any()
    assert not asked


def test_without_the_extension_xla_convolves(monkeypatch):
    monkeypatch.setattr(native, "_module", None)
    x, kernel = jnp.ones((1, 64, 64, 32)), jnp.ones((3, 3, 32, 32))
    assert "@drsn_" not in jax.jit(lambda x: convolve(x, kernel, (1, 1), "SAME", **NUMBERS)).lower(x).as_text()


def test_a_missing_extension_is_no_fault(monkeypatch):
    monkeypatch.delenv("DRSN_JAX_NATIVE", raising=False)
    monkeypatch.setitem(sys.modules, "drsn_jax_native", None)
    assert find() == (None, "not installed")


def test_the_variable_switches_it_off(monkeypatch):
    monkeypatch.setenv("DRSN_JAX_NATIVE", "0")
    monkeypatch.setitem(sys.modules, "drsn_jax_native", types.SimpleNamespace(load=lambda: pytest.fail("loaded all the same")))
    assert find() == (None, "switched off by DRSN_JAX_NATIVE=0")


def test_a_broken_extension_is_warned_of_and_left_alone(monkeypatch):
    def load():
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.delenv("DRSN_JAX_NATIVE", raising=False)
    monkeypatch.setitem(sys.modules, "drsn_jax_native", types.SimpleNamespace(load=load))
    with pytest.warns(RuntimeWarning, match=r"does not load \(libgomp.*build it again \(pip install ./native\)"):
        found = find()
    assert found.module is None
    assert "build it again" in found.status


@contextmanager
def always():
    """Small convolutions go to oneDNN as well."""
    choice = pytest.importorskip("drsn_jax_native.choice", reason="oneDNN is optional: pip install ./native")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "gains", lambda kind, **_: True)
        yield


def test_a_training_step_with_the_extension_is_one_without():
    """Generator, critic and gradient penalty (a gradient of a gradient), in one step: figures and weights agree."""
    if find_extension().module is None:
        pytest.skip(f"drsn-jax-native is {find_extension().status}: pip install ./native")
    config = load_config("default", tiny.options(critic_steps=1))
    batch = {name: jax.random.uniform(jax.random.key(i), (2, 32, 32, 3), minval=-1) for i, name in enumerate(("blurred", "sharp"))}
    found = []
    for natively in (True, False):
        training = make_training(config, num_train_steps=10, forms=dataclasses.replace(CPU, native=natively))
        state = jax.jit(training.init)(make_keys(0).state)
        with always():
            lowered = jax.jit(training.train_step).lower(state, batch)
        assert ("@drsn_kernel_gradient" in lowered.as_text()) == natively
        found.append(lowered.compile()(state, batch))
    (state, metrics), (expected_state, expected_metrics) = found
    assert metrics["critic/gradient_penalty"] > 0
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-3, atol=1e-5, err_msg=name)
    for one, other in zip(jax.tree.leaves(state.generator_params), jax.tree.leaves(expected_state.generator_params), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)
