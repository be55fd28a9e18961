"""Comparison of an accelerator with the CPU, for typical errors: TF32, bfloat16, Fourier transforms, gathers, rematerialisation."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drsn_jax.config import load_config
from drsn_jax.config.build import make_generator
from drsn_jax.data.synthesis.bank import cut_mirrored, make_bank
from drsn_jax.data.synthesis.blur import synthesise
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.ops.backend import PLAIN, forms_for
from drsn_jax.ops.metrics import score_pair


class Check(NamedTuple):
    """A comparison: the largest difference, and its bound."""

    what: str
    worst: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the difference is finite and within the bound."""
        return bool(self.worst <= self.bound)


def largest(a: Any, b: Any) -> float:
    """Return the largest absolute difference between two pytrees of arrays, computed in float64."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max()) for x, y in pairs)


def on(device: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Run the jitted function on one device, and return the result on the host."""
    return jax.device_get(jax.jit(function)(*jax.device_put(arguments, device)))


def compare_all(tiny: bool = False) -> list[Check]:
    """Compare JAX's default device with a CPU."""
    device, cpu = jax.devices()[0], jax.local_devices(backend="cpu")[0]
    return [*_compare_network(device, cpu, tiny=tiny), *_compare_data(device, cpu, side=32 if tiny else 128)]


def _compare_network(device: Any, cpu: Any, *, tiny: bool) -> Iterator[Check]:
    config = dict(load_config("small", ["--config.widths=4,6,8", "--config.num_blocks=1"] if tiny else [])) | {"dtype": "float32"}
    network = make_generator(config, forms=forms_for(device.platform))
    side = 32 if tiny else 256
    images = jax.random.uniform(jax.random.key(1), (2, side, side, 3), minval=-1.0)
    variables = _draw_variables(network, images)
    reference = on(cpu, network.clone(forms=PLAIN).apply, variables, images)
    restored = on(device, network.apply, variables, images)
    levels = [np.rint((np.clip(x, -1, 1) + 1) * 127.5) for x in (reference, restored)]
    yield Check("restored values, float32 (TF32 would show)", largest(reference, restored), 1e-3)
    yield Check("restored 8-bit levels, float32", largest(*levels), 1.0)
    halves = on(device, network.clone(dtype=jnp.bfloat16).apply, variables, images)
    yield Check("restored values, bfloat16, mean difference", float(np.abs(np.asarray(halves, np.float64) - reference).mean()), 2e-2)

    def gradient(net: Any) -> Callable[..., Any]:
        how = {"train": True, "rngs": {"dropout": jax.random.key(3)}, "mutable": True}

        def loss(params: Any, images: Any) -> Any:
            return jnp.square(net.apply({**variables, "params": params}, images, **how)[0]).mean()

        return jax.grad(loss)

    first = on(device, gradient(network), variables["params"], images)
    size = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(first))
    again = on(device, gradient(network.clone(remat=True)), variables["params"], images)
    yield Check("gradient with rematerialisation, relative", largest(first, again) / size, 1e-4)
    plain = on(cpu, gradient(network.clone(forms=PLAIN)), variables["params"], images)
    yield Check("gradient against the CPU's, relative", largest(first, plain) / size, 1e-2)


def _draw_variables(network: Any, images: Any) -> Any:
    """Draw seeded values without compiling the initialisation: kernels of variance 2 / fan in, scales and variances near 1, small bias."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if name == "kernel" else 0.05
        return (rng.normal(0, spread, leaf.shape) + (name in ("scale", "var"))).astype(np.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(draw, {name: shapes[name] for name in ("params", "batch_stats") if name in shapes})


def _compare_data(device: Any, cpu: Any, *, side: int) -> Iterator[Check]:
    image = np.random.default_rng(0).integers(0, 256, (2 * side, 3 * side, 3), np.uint8)
    bank = make_bank([image, image[::-1]], names="ab", crop_size=side)
    places = tuple(jnp.int32(x) for x in (1, -5, 2 * side))

    def window(bank: Any, *places: Any) -> Any:
        return cut_mirrored(bank, *places, side=side)

    yield Check("windows of resident images, mirrored", largest(on(device, window, bank, *places), on(cpu, window, bank, *places)), 0.0)
    recipe = BlurRecipe()
    padded = np.pad(image[:side, :side], ((recipe.margin, recipe.margin), (recipe.margin, recipe.margin), (0, 0)), mode="reflect")

    def blur(key: Any, padded: Any) -> Any:
        return synthesise(key, padded, recipe)

    ours, theirs = (on(where, blur, jax.random.key(2), padded) for where in (device, cpu))
    yield Check("synthesised blur in [0, 1] (its Fourier transforms)", largest(ours, theirs), 2e-3)
    pair = image[:side, :side], image[:side, side : 2 * side]
    scores = [on(where, score_pair, *pair) for where in (device, cpu)]
    yield Check("PSNR in dB and SSIM", largest(*scores), 1e-3)
