"""jvp, derivatives of derivatives, vmap, rematerialisation and export are those of the plain form."""

import jax
import jax.numpy as jnp
import pytest
from jax import export
from test_convolution import assert_close

import drsn_jax_native
from drsn_jax_native.convolution import convolve
from drsn_jax_native.plain import plain_forward

PADS = ((1, 1), (1, 1))
GEOMETRIES = [{"stride": (1, 1), "pads": PADS}, {"stride": (2, 2), "pads": ((0, 1), (0, 1))}]

pytestmark = pytest.mark.usefixtures("always")


def network(conv, geometry):
    """Return a scalar of maps and kernel that is curved in both."""

    def loss(x, kernel):
        hidden = jnp.tanh(conv(x, kernel, stride=(1, 1), pads=PADS))
        return jnp.sum(jnp.sin(conv(hidden, kernel, **geometry)) ** 2)

    return loss


def both(transform, geometry, *args):
    """Return a transformation of the network with oneDNN and of the plain one, and check that the first calls oneDNN."""
    ours, theirs = (jax.jit(transform(network(conv, geometry))) for conv in (convolve, plain_forward))
    assert "@drsn_" in ours.lower(*args).as_text()
    assert "@drsn_" not in theirs.lower(*args).as_text()
    return ours(*args), theirs(*args)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_jvp(geometry, draw):
    x, kernel, dx, dkernel = draw(2, 6, 6, 8), draw(3, 3, 8, 8), draw(2, 6, 6, 8), draw(3, 3, 8, 8)
    ours, theirs = both(lambda f: lambda *a: jax.jvp(f, a[:2], a[2:]), geometry, x, kernel, dx, dkernel)
    assert_close(ours, theirs, 1e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradient_of_a_gradient_penalty(geometry, draw):
    def penalty(f):
        return jax.grad(lambda x, kernel: jnp.sum(jax.grad(f)(x, kernel) ** 2), argnums=(0, 1))

    ours, theirs = both(penalty, geometry, draw(2, 6, 6, 8), draw(3, 3, 8, 8) / 4)
    assert_close(ours, theirs, 1e-4)


@pytest.mark.parametrize("transform", [jax.hessian, lambda f: jax.jacrev(jax.jacfwd(f)), lambda f: jax.jacrev(jax.grad(f))])
def test_hessian_by_either_mode(transform, draw):
    """Both arguments are in one array, so the hessian has every mixed derivative."""
    values = draw(2 * 3 * 2 + 2 * 2 * 2 * 2)

    def split(f):
        return lambda values: f(values[:12].reshape(1, 2, 3, 2), values[12:].reshape(2, 2, 2, 2))

    ours, theirs = both(lambda f: transform(split(f)), GEOMETRIES[1], values)
    assert_close(ours, theirs, 1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (3, None), (1, 4)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_vmap(axes, geometry, draw):
    shapes = [(2, 6, 6, 8), (3, 3, 8, 8)]
    args = [draw(*shape) if axis is None else draw(*shape[:axis], 3, *shape[axis:]) for shape, axis in zip(shapes, axes, strict=True)]
    ours, theirs = both(lambda f: jax.vmap(jax.value_and_grad(f, argnums=(0, 1)), in_axes=axes), geometry, *args)
    assert_close(ours, theirs, 1e-4)


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.everything_saveable])
def test_rematerialisation(policy, draw):
    ours, theirs = both(
        lambda f: jax.value_and_grad(jax.checkpoint(f, policy=policy), argnums=(0, 1)), GEOMETRIES[0], draw(2, 6, 6, 8), draw(3, 3, 8, 8)
    )
    assert_close(ours, theirs, 1e-4)


def test_inside_loops_and_branches(draw):
    x, kernel = draw(1, 6, 6, 8), draw(3, 3, 8, 8) / 8

    def loop(conv):
        def body(x, _):
            return jax.lax.cond(x.sum() > 0, lambda x: conv(x, kernel, **GEOMETRIES[0]), lambda x: x + 1, x), None

        return jax.jit(lambda x: jax.lax.scan(body, x, length=4)[0])

    assert_close(loop(convolve)(x), loop(plain_forward)(x), 1e-4)


def test_an_export_is_portable(draw):
    """An export has no call of the library, can be serialised, and computes the same here, also for several platforms."""
    x, kernel = draw(1, 8, 8, 8), draw(3, 3, 8, 8)
    gradient = jax.jit(jax.grad(network(convolve, GEOMETRIES[0]), argnums=(0, 1)))
    exported = export.export(gradient, platforms=("cpu", "cuda", "tpu"))(x, kernel)
    assert "custom_call" not in exported.mlir_module()
    assert_close(exported.call(x, kernel), gradient(x, kernel), 1e-4)
    pytest.importorskip("flatbuffers", reason="which jax.export serialises by")
    assert_close(export.deserialize(exported.serialize()).call(x, kernel), gradient(x, kernel), 1e-4)


def test_lowering_for_an_accelerator_has_xlas_convolution(draw):
    lowered = jax.jit(drsn_jax_native.convolve).trace(draw(1, 8, 8, 8), draw(3, 3, 8, 8)).lower(lowering_platforms=("tpu",))
    assert "stablehlo.convolution" in lowered.as_text()
    assert "@drsn_" not in lowered.as_text()
