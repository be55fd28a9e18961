"""Multiply-adds by hand, against XLA's own count, and as the specification states them; memory and the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.models.layers import ReflectConv
from drsn_jax.ops.backend import PLAIN
from drsn_jax.ops.costs import Cost, add_costs, count_macs, count_module_macs, format_costs, measure_costs

SMALL = {"widths": (8, 12, 16), "num_blocks": 1}
IMAGE = jax.ShapeDtypeStruct((1, 32, 48, 3), jnp.float32)


def count_module(module):
    return count_module_macs(module, size=(32, 48))


CONVOLUTIONS = {
    "same": (nn.Conv(5, (3, 3)), 32 * 48 * 9 * 3 * 5),
    "stride 2": (nn.Conv(5, (3, 3), strides=2), 16 * 24 * 9 * 3 * 5),
    "stride 2 of four, both sides padded": (nn.Conv(5, (4, 4), strides=2, padding=((1, 1), (1, 1))), 16 * 24 * 16 * 3 * 5),
    "valid": (nn.Conv(5, (7, 5), padding="VALID"), 26 * 44 * 35 * 3 * 5),
    "groups": (nn.Conv(6, (3, 3), feature_group_count=3), 32 * 48 * 9 * 1 * 6),
    "dilated": (nn.Conv(5, (3, 3), kernel_dilation=2, padding="VALID"), 28 * 44 * 9 * 3 * 5),
    "transposed": (nn.ConvTranspose(5, (3, 3), strides=(2, 2), padding=((1, 2), (1, 2))), 32 * 48 * 9 * 3 * 5),
    "reflected": (ReflectConv(5, 7), 32 * 48 * 49 * 3 * 5),
    "dense": (nn.Dense(7), 32 * 48 * 3 * 7),
}


@pytest.mark.parametrize(("module", "expected"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_layers_by_hand(module, expected):
    assert count_module(module) == expected


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_networks_cost_the_same_on_every_back_end(monkeypatch, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert count_module(ReflectConv(5, 3)) == 32 * 48 * 9 * 3 * 5
    assert count_module(ReflectConv(5, 3, dtype=jnp.bfloat16)) == 32 * 48 * 9 * 3 * 5
    full, block = 32 * 48, 2 * (32 * 48 // 16 * 9 * 16 * 16 + 16 * 16)
    downs = full // 4 * 9 * 8 * 12 + full // 16 * 9 * 12 * 16
    ups = full // 4 * 9 * 16 * 12 + full * 9 * 12 * 8
    assert count_module(Generator(**SMALL)) == 2 * full * 49 * 3 * 8 + downs + ups + block


def test_products_inside_of_everything():
    x = jnp.ones((6, 6))

    @jax.custom_vjp
    def product(x):
        return x @ x

    product.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x,))
    assert count_macs(jax.jit(lambda x: x @ x), x) == 216
    assert count_macs(lambda x: product(jax.checkpoint(jnp.dot)(x, x)), x) == 2 * 216
    assert count_macs(lambda x: jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=5)[0], x) == 5 * 216
    assert count_macs(lambda x: jax.lax.fori_loop(0, 4, lambda _, c: c @ x, x), x) == 4 * 216
    assert count_macs(lambda x: jax.lax.cond(x[0, 0] > 0, lambda c: c @ c @ c, lambda c: c @ c, x), x) == 2 * 216
    assert count_macs(lambda x: jnp.einsum("bij,bjk->bik", x.reshape(2, 3, 6), x.reshape(2, 6, 3)), x) == 2 * 3 * 6 * 3
    assert count_macs(lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c + 1, x), x) == 0
    with pytest.raises(ValueError, match="loop"):
        count_macs(lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ x, x), x)


def test_the_generator_of_the_paper():
    """SPEC section 1: about 56.8 GMACs at 256x256; 799 at 1280x720. By hand: head and stem, two stages down, two up, nine blocks."""
    sizes = [(256, 256), (720, 1280)]
    counts = [count_module_macs(Generator(), size=size) for size in sizes]
    for (height, width), count in zip(sizes, counts, strict=True):
        full = height * width
        ends, down = 2 * full * 49 * 3 * 64, full // 4 * 9 * 64 * 128 + full // 16 * 9 * 128 * 256
        up = full // 4 * 9 * 256 * 128 + full * 9 * 128 * 64
        assert count == ends + down + up + 18 * (full // 16 * 9 * 256 * 256 + 256 * 256)
    assert [round(count / 1e9, 1) for count in counts] == [56.8, 798.7]


WIDE = {"widths": (32, 48, 64), "num_blocks": 2}  # only traced, never compiled
NETWORKS = {
    "paper": Generator(forms=PLAIN),
    "unet": Generator(trunk="unet", norm="none", forms=PLAIN, **WIDE),
    "transposed, classic": Generator(upsampling="transposed", block_order="post", norm="instance", forms=PLAIN, **WIDE),
    "unshuffled": Generator(unshuffle=2, forms=PLAIN, **WIDE),
    "dense critic": Critic(forms=PLAIN),
    "patch critic": Critic(head="patch", widths=(64, 128, 256), forms=PLAIN),
}


@pytest.mark.parametrize("module", NETWORKS.values(), ids=NETWORKS)
def test_agrees_with_xla(module):
    """XLA counts two operations for each, leaves zero padding out, which large images make small, and adds what is done to single elements.

    It is given the plain form of every convolution, which the count is to equal whatever the back end computes.
    """
    image = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    macs = count_macs(module.apply, variables, image)
    operations = jax.jit(module.apply).lower(variables, image).cost_analysis()["flops"]
    assert macs == pytest.approx(operations / 2, rel=0.02)


def test_gradients_of_gradients_agree_with_xla():
    """A gradient penalty's: a kernel's gradient of an image's gradient of a strided convolution, where maps stand for kernels."""
    critic, image = Critic(head="patch", widths=(32, 64), norm="none", forms=PLAIN), jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    params = jax.eval_shape(critic.init, jax.random.key(0), image)["params"]

    def penalty_gradient(params, image):
        def penalty(params):
            return jnp.square(jax.grad(lambda image: critic.apply({"params": params}, image).sum())(image)).sum()

        return jax.grad(penalty)(params)

    operations = jax.jit(penalty_gradient).lower(params, image).cost_analysis()["flops"]
    assert count_macs(penalty_gradient, params, image) == pytest.approx(operations / 2, rel=0.03)


def test_costs_of_a_network():
    module = Generator(norm="batch", **SMALL)
    (cost,) = measure_costs(module, sizes=[(32, 48)], run=False)
    variables = jax.eval_shape(module.init, jax.random.key(0), IMAGE)
    assert cost.parameters == sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert (cost.height, cost.width, cost.macs, cost.seconds) == (32, 48, count_module(module), None)
    held = 4 * sum(x.size for x in jax.tree.leaves(variables)) + 2 * 4 * 32 * 48 * 3
    assert cost.peak_bytes is not None
    assert held < cost.peak_bytes < held + 4 * 32 * 48 * 8 * 20


def test_memory_and_macs_grow_with_the_image():
    small, large = measure_costs(Critic(head="patch", widths=(8, 16, 32)), sizes=[(64, 64), (128, 128)], run=False)
    assert large.macs == 4 * small.macs
    assert large.peak_bytes > 2 * small.peak_bytes
    assert large.parameters == small.parameters


def test_a_dense_critic_has_one_size():
    critic = Critic(widths=(8, 8, 16), dense_features=32)
    fitting, other = measure_costs(critic, sizes=[(64, 64), (64, 96)], run=False)
    assert fitting.macs is not None
    assert other == Cost(64, 96, fitting.parameters, None, None, None)
    first, second = measure_costs(critic, sizes=[(64, 64), (64, 96)], run=False, init_size=(64, 96))
    assert first.macs is None
    assert second.macs is not None
    assert second.parameters > fitting.parameters


def test_seconds_are_those_of_a_run():
    (cost,) = measure_costs(Generator(**SMALL), sizes=[(32, 48)], run=True)
    assert cost.seconds is not None
    assert cost.seconds > 0


def test_sizes_that_the_generator_refuses():
    with pytest.raises(ValueError, match="multiples of 4"):
        measure_costs(Generator(**SMALL), sizes=[(64, 64), (30, 48)], run=False)


def test_the_table():
    generator = [Cost(256, 256, 1000, 2_500_000_000, 3_000_000, 0.25), Cost(720, 1280, 1000, 30_000_000_000, None, None)]
    critic = [Cost(256, 256, 200, 500_000_000, 1_000_000, 0.5), Cost(720, 1280, 200, None, None, None)]
    rows = format_costs(generator=generator, critic=critic).splitlines()
    assert len({len(row) for row in rows if "applicable" not in row}) == 1
    assert [row.split() for row in rows[1:4]] == [
        ["generator", "256x256", "1,000", "2.50", "3", "0.25"],
        ["generator", "1280x720", "1,000", "30.00", "unknown", "-"],
        ["critic", "256x256", "200", "0.50", "1", "0.5"],
    ]
    assert rows[5].split() == ["both", "256x256", "1,200", "3.00", "4", "0.75"]
    assert "not applicable" in rows[4]
    assert "not applicable" in rows[6]
    assert "1,200" in rows[6]
    with pytest.raises(ValueError, match="same sizes"):
        add_costs(generator, critic[::-1])


def test_random_parameters_keep_what_is_computed_finite():
    """Nothing is measured of numbers that are none: some back ends are slower with them."""
    seen = []

    class Probe(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = x.reshape(1, -1)[:, :64]
            for _ in range(40):
                y = nn.Dense(64)(y)
            jax.debug.callback(lambda y: seen.append(bool(np.isfinite(y).all())), y)
            return y

    measure_costs(Probe(), sizes=[(32, 32)], run=True)
    jax.effects_barrier()
    assert seen == [True] * 4
