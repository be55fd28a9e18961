"""Under a mesh each device convolves its own images, and kernel gradients are summed: no images are sent."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from test_convolution import assert_close

from drsn_jax_native.convolution import convolve
from drsn_jax_native.plain import plain_forward

PADS = ((1, 1), (1, 1))
SHAPE, KERNEL = (16, 8, 8, 16), (3, 3, 16, 16)

pytestmark = pytest.mark.usefixtures("always")


def loss_fn(conv):
    def loss(x, kernel):
        return jnp.mean(jnp.sin(conv(jnp.tanh(conv(x, kernel, stride=(1, 1), pads=PADS)), kernel, stride=(2, 2), pads=PADS)) ** 2)

    return loss


def make_mesh(*sizes):
    names = ("data", "model")[: len(sizes)]
    return Mesh(np.array(jax.devices()).reshape(sizes), names, axis_types=(AxisType.Auto,) * len(sizes))


def calls(text):
    """Return (target, shape of the result) of every call of oneDNN in a compiled program."""
    return re.findall(r"= (\w+\[[\d,]*\])\S* custom-call\(.*?custom_call_target=\"(drsn_\w+)\"", text)


@pytest.mark.parametrize(("sizes", "batch"), [((8,), "data"), ((4, 2), "data"), ((4, 2), ("data", "model"))])
def test_each_device_computes_its_own_part(sizes, batch, draw):
    mesh = make_mesh(*sizes)
    devices = int(np.prod([mesh.shape[axis] for axis in np.atleast_1d(batch)]))
    x, kernel = draw(*SHAPE), draw(*KERNEL) / 8
    args = (
        jax.device_put(x, NamedSharding(mesh, PartitionSpec(batch))),
        jax.device_put(kernel, NamedSharding(mesh, PartitionSpec())),
    )
    step = jax.jit(jax.value_and_grad(loss_fn(convolve), argnums=(0, 1)))
    text = step.lower(*args).compile().as_text()
    found = calls(text)
    assert {target for _, target in found} == {"drsn_convolve", "drsn_input_gradient", "drsn_kernel_gradient"}
    parts = {shape for shape, target in found if target != "drsn_kernel_gradient"}
    assert all(shape.startswith(f"f32[{SHAPE[0] // devices},") for shape in parts), parts
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in text
    assert_close(step(*args), jax.jit(jax.value_and_grad(loss_fn(plain_forward), argnums=(0, 1)))(x, kernel), 1e-4)


def test_whatever_else_is_divided_is_put_together_first(draw):
    """Rows and channels over devices: the result is right, if not fast."""
    mesh = make_mesh(4, 2)
    x, kernel = draw(*SHAPE), draw(*KERNEL) / 8
    args = (
        jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "data", None, "model"))),
        jax.device_put(kernel, NamedSharding(mesh, PartitionSpec(None, None, "model"))),
    )
    step = jax.jit(jax.value_and_grad(loss_fn(convolve), argnums=(0, 1)))
    assert_close(step(*args), jax.jit(jax.value_and_grad(loss_fn(plain_forward), argnums=(0, 1)))(x, kernel), 1e-4)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma, draw):
    mesh = make_mesh(8)
    x, kernel = draw(*SHAPE), draw(*KERNEL) / 8
    results = []
    for conv in (convolve, plain_forward):

        def step(x, kernel, conv=conv):
            loss, gradient = jax.value_and_grad(loss_fn(conv), argnums=1)(x, jax.lax.pcast(kernel, "data", to="varying"))
            return jax.lax.pmean(loss, "data"), jax.lax.pmean(gradient, "data")

        specs = {"in_specs": (PartitionSpec("data"), PartitionSpec()), "out_specs": PartitionSpec()}
        results.append(jax.jit(jax.shard_map(step, mesh=mesh, check_vma=check_vma, **specs))(x, kernel))
    assert_close(*results, 1e-4)
    assert_close(results[0], jax.jit(jax.value_and_grad(loss_fn(plain_forward), argnums=1))(x, kernel), 1e-4)


def test_shard_map_with_a_kernel_that_does_not_vary(draw):
    """Its gradient is the sum over the devices, as for JAX's own operations."""
    mesh = make_mesh(8)
    x, kernel = draw(*SHAPE), draw(*KERNEL) / 8
    specs = {"in_specs": (PartitionSpec("data"), PartitionSpec()), "out_specs": PartitionSpec()}
    results = [
        jax.jit(jax.shard_map(lambda x, kernel, conv=conv: jax.grad(loss_fn(conv), argnums=1)(x, kernel), mesh=mesh, **specs))(x, kernel)
        for conv in (convolve, plain_forward)
    ]
    assert_close(*results, 1e-4)


def test_axes_left_to_xla_inside_shard_map_leave_the_convolution_to_it(draw):
    mesh = make_mesh(4, 2)
    x, kernel = draw(*SHAPE), draw(*KERNEL) / 8
    specs = {"in_specs": (PartitionSpec("data"), PartitionSpec()), "out_specs": PartitionSpec("data"), "axis_names": {"data"}}
    step = jax.jit(jax.shard_map(lambda x, kernel: convolve(x, kernel, pads=PADS), mesh=mesh, **specs))
    assert not calls(step.lower(x, kernel).compile().as_text())
    assert_close(step(x, kernel), plain_forward(x, kernel, stride=(1, 1), pads=PADS), 1e-4)


def test_explicit_axes_leave_the_convolution_to_xla(draw):
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Explicit,))
    x, kernel = draw(*SHAPE), draw(*KERNEL) / 8
    args = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))), jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(lambda x, kernel: convolve(x, kernel, pads=PADS))
    assert "@drsn_" not in step.lower(*args).as_text()
    assert_close(step(*args), plain_forward(x, kernel, stride=(1, 1), pads=PADS), 1e-4)
