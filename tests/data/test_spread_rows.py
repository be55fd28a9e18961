"""Batches made over eight devices: the rows of one device, with an eighth of the operations each, without communication."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from levels import assert_same_levels

from drsn_jax.config.build import make_stages
from drsn_jax.config.files import load_config
from drsn_jax.data.synthesis.bank import make_bank
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.clips import Clip
from drsn_jax.data.synthesis.resident import make_batch_fn
from drsn_jax.run.data import Held, _make_resident_batch_fn
from drsn_jax.training.sharding import make_mesh, over_data, replicate

COLLECTIVES = ("all-gather", "all-to-all", "all-reduce", "collective-permute", "reduce-scatter")
RECIPE = BlurRecipe(length=(2.0, 5.0), noise_variance=(0.001, 0.001))


@pytest.fixture(scope="module")
def bank():
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 48, 3), np.uint8) for i in range(3)]
    return make_bank(images, names="abc", crop_size=16)


def compile_batch(batch_fn, held, *, mesh):
    """Compile the program with a result that is split over the devices. Returns it with its operands."""
    operands = replicate((held, jax.random.key(0)), mesh)
    return jax.jit(batch_fn, out_shardings=over_data(mesh)).lower(*operands).compile(), operands


def test_synthesis_of_eight_devices_is_that_of_one_in_an_eighth_of_the_operations(bank, unchecked):
    mesh = make_mesh()
    assert mesh.size == 8
    options = {"batch_size": 16, "crop_size": 16, "recipe": RECIPE, "candidates": 2}
    spread, operands = compile_batch(make_batch_fn(**options, mesh=mesh), bank, mesh=mesh)
    alike, _ = compile_batch(make_batch_fn(**options), bank, mesh=mesh)
    assert not [word for word in COLLECTIVES if word in spread.as_text()]
    ours, theirs = (np.array([program.cost_analysis()[name] for name in ("flops", "bytes accessed")]) for program in (spread, alike))
    assert ours[0] < 0.2 * theirs[0], "with XLA alone every device transforms every row"
    alone = jax.jit(make_batch_fn(**options))(bank, jax.random.key(0))
    for name, images in spread(*operands).items():
        assert images.sharding.is_equivalent_to(over_data(mesh), images.ndim)
        assert_same_levels(*(np.rint((np.asarray(x) + 1) * 127.5).astype(np.uint8) for x in (images, alone[name])))


@pytest.mark.parametrize(("share", "rows"), [(0.5, 8), (0.25, 4)])
def test_photographs_and_frames_are_mixed_on_each_device(bank, share, rows, unchecked):
    """8 of 16 rows divide over eight devices. 4 rows do not, so every device makes the whole batch."""
    mesh = make_mesh()
    overrides = {"data": "photos", "crop_size": 16, "batch_size": 16, "stages": (), "noise_variance": "0.001,0.001"}
    overrides |= {"critic_batches": "same", "frames_dir": "clip", "frames_share": share, "frames_averaged": "1,3", "blur_length": "2.0,5.0"}
    config = load_config("default", [f"--config.{key}={value}" for key, value in overrides.items()])
    frames = [np.full((20, 20, 3), 255, np.uint8)] * 4
    clip = Clip(make_bank(frames, names="abcd", crop_size=16), jnp.arange(4, 0, -1, dtype=jnp.int32))
    batch_fn = _make_resident_batch_fn(config, make_stages(config)[0], of_clip=rows, mesh=mesh)
    program, operands = compile_batch(batch_fn, Held(bank, clip, None), mesh=mesh)
    assert not [word for word in COLLECTIVES if word in program.as_text()]
    white = np.asarray(program(*operands)["sharp"]).min(axis=(1, 2, 3)) == 1
    assert white.sum() == rows
    if rows % mesh.size == 0:
        np.testing.assert_array_equal(white.reshape(8, 2).sum(axis=1), 1)
