"""One image over several devices: what one device makes of it, whatever its height, in a share of the memory. Eight CPU devices."""

from functools import partial

import jax
import numpy as np
import pytest
import tiny
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from levels import assert_same_levels
from networks import draw_variables, images, quick_compiles  # noqa: F401
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.config.build import make_generator
from drsn_jax.config.files import load_config
from drsn_jax.models.generator import Generator
from drsn_jax.ops.layout import convolve_zero_padded, mean_pixels, pad_by_reflection
from drsn_jax.ops.rows import Rows
from drsn_jax.restoration.core.spread import make_parallel, make_spread_fn, spread_bytes
from drsn_jax.restoration.core.tiling import restore_array, restore_arrays, restore_uint8
from drsn_jax.training.sharding import mesh_of, over_data, spread_rows

DEVICES = jax.devices()
SMALL = {"widths": (4, 6, 8), "num_blocks": 1}
STRIPS = PartitionSpec(None, "rows")
# `demo` is `best` at these sizes. After these two, every form that a layer can have; each with a height in pixels and devices.
CASES = {
    "paper": (make_generator(load_config("paper")).clone(**SMALL), 64, 8),  # two strides each
    "best": (make_generator(load_config("best")).clone(**SMALL), 42, 4),  # three each, the last two
    "instance norm": (Generator(**SMALL, norm="instance", threshold_norm="layer", block_order="post", convs_per_block=1), 33, 8),  # 3 idle
    "deblurgan": (
        Generator(**SMALL, norm="instance", shrinkage=False, upsampling="transposed", strided_padding="torch", output="average"),
        14,  # padded to four strides: one for each of four devices
        8,
    ),
    "layer norm": (Generator(**SMALL, trunk="unet", norm="layer", threshold_norm="batch", upsampling="transposed"), 91, 8),
    "folded": (Generator(**SMALL, unshuffle=2, strided_padding="torch"), 53, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_devices_together_make_what_one_makes(case, rng):
    generator, height, count = CASES[case]
    drawn = draw_variables(generator, images(height=generator.stride, width=generator.stride))
    variables = jax.tree.map(lambda leaf: leaf + (leaf.ndim == 1) * rng.uniform(0, 0.1, leaf.shape).astype(np.float32), drawn)  # biases too
    restore = partial(restore_array, stride=generator.stride, tile=None)
    restore_8bit = partial(restore_uint8, stride=generator.stride, tile=None)
    alone, together = partial(jax.jit(generator.apply), variables), make_spread_fn(generator, variables, devices=DEVICES[:count])
    image = rng.random((height, 27, 3), dtype=np.float32)
    restored = restore(image, predict_fn=together)
    np.testing.assert_allclose(restored, restore(image, predict_fn=alone), atol=1e-5, rtol=0)
    assert np.abs(restored - image).mean() > 0.02
    assert ((restored > 0) & (restored < 1)).mean() > 0.5  # clipped values would hide what differs
    levels = np.rint(image * 255).astype(np.uint8)
    differences = restore_8bit(levels, predict_fn=together).astype(int) - restore_8bit(levels, predict_fn=alone)
    assert np.abs(differences).max() <= 1


@pytest.mark.parametrize("number", [1, 4, 5])
def test_each_device_restores_images_of_its_own(number, rng):
    """As many images as devices, fewer, and one more. The thresholds are those of each image alone."""
    generator = CASES["best"][0]
    variables = draw_variables(generator, images(height=generator.stride, width=generator.stride))
    parallel = make_parallel(generator.apply, devices=DEVICES[:4])
    batch = rng.random((number, 21, 27, 3), dtype=np.float32) * rng.random((number, 1, 1, 1), dtype=np.float32)
    predict_fn = partial(parallel.apply_fn, parallel.place_fn(variables))
    restored = restore_arrays(batch, predict_fn=predict_fn, stride=generator.stride)
    alone = partial(restore_array, predict_fn=partial(jax.jit(generator.apply), variables), stride=generator.stride)
    assert restored.shape == batch.shape
    np.testing.assert_allclose(restored, [alone(image) for image in batch], atol=1e-5, rtol=0)


def test_devices_with_images_of_their_own_exchange_nothing():
    generator = CASES["best"][0]
    variables = draw_variables(generator, images(height=generator.stride, width=generator.stride))
    mesh = mesh_of(DEVICES)
    batch = jax.ShapeDtypeStruct((8, 16, 16, 3), np.float32, sharding=over_data(mesh))
    variables = make_parallel(generator.apply, devices=DEVICES).place_fn(variables)
    program = jax.jit(spread_rows(generator.apply, whole=1, mesh=mesh)).lower(variables, batch).compile().as_text()
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if word in program]


@pytest.mark.parametrize(("strides", "count"), [(2, 2), (2, 8), (3, 2), (5, 8), (7, 3), (9, 8), (5, 1)])
def test_strips_are_padded_convolved_and_averaged_as_the_whole_map(strides, count, rng):
    rows = Rows("rows", strides, -(-strides // count))
    height, strip = 4 * strides, 4 * rows.strip
    whole = rng.normal(size=(1, height, 5, 2)).astype(np.float32)
    spread = np.concatenate([whole, np.full((1, strip * count - height, 5, 2), 1e3, np.float32)], axis=1)
    kernel = rng.normal(size=(3, 3, 2, 3)).astype(np.float32)

    def conv(stride, x):
        return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def apply(x, layout):
        convolved = [convolve_zero_padded(partial(conv, stride), x, margin=margin, layout=layout) for stride, margin in ((1, 1), (2, 2))]
        return [pad_by_reflection(x, margin, layout=layout) for margin in (1, 3)], convolved, mean_pixels(x, layout=layout)

    mesh = Mesh(np.array(DEVICES[:count]), ("rows",))
    spread_fn = jax.shard_map(partial(apply, layout=rows), mesh=mesh, in_specs=STRIPS, out_specs=(STRIPS, STRIPS, PartitionSpec()))
    padded, convolved, mean = jax.jit(spread_fn)(spread)
    expected = jax.jit(partial(apply, layout=None))(whole)
    for margin, x, of_whole in zip((1, 3), padded, expected[0], strict=True):
        for i, of_strip in enumerate(np.split(np.asarray(x), count, axis=1)):
            meant = of_whole[:, i * strip : (i + 1) * strip + 2 * margin] if i * strip < height else of_strip[:, :0]
            np.testing.assert_array_equal(of_strip[:, : meant.shape[1]], meant)
    for x, of_whole in zip(convolved, expected[1], strict=True):
        np.testing.assert_allclose(x[:, : of_whole.shape[1]], of_whole, atol=1e-5)
    np.testing.assert_allclose(mean, expected[2], atol=1e-6)


def test_a_device_needs_its_share_of_the_memory():
    generator = make_generator(load_config("demo")).clone(widths=(8, 16, 32))
    needed = {count: spread_bytes(generator, height=2060, width=256, devices=DEVICES[:count]) for count in (1, 2, 8)}
    assert needed[8] < needed[2] / 3.7 < needed[1] / 6  # measured: needed[2] / 3.9 and needed[1] / 6.8


def test_sizes_that_cannot_be_spread_are_named():
    spread_fn = make_spread_fn(Generator(**SMALL), {}, devices=DEVICES[:2])
    for height in (4, 18):
        with pytest.raises(ValueError, match=f"Images of {height} rows .* multiple of 4 from 8 up"):
            spread_fn(np.zeros((1, height, 16, 3), np.float32))


@pytest.fixture(scope="module")
def model(tmp_path_factory, photograph):
    return tiny.trained(tmp_path_factory, photograph)


def test_the_command_spreads_over_all_devices_or_says_that_there_is_one(model, photograph, tmp_path, capsys, monkeypatch):
    path = tmp_path / "in.png"
    Image.fromarray(photograph[:61, :45]).save(path)

    def restored(name, *options):
        assert main(["restore", f"--model={model}", f"--output={tmp_path / name}", str(path), *options]) == 0
        return np.asarray(Image.open(tmp_path / name)).astype(int), capsys.readouterr().err

    expected, _ = restored("tile.png")  # the image fits into a tile
    spread, said = restored("spread.png", "--whole")
    assert said.startswith("Each image whole, its rows over 8 devices (cpu).\n")
    assert np.abs(spread - expected).max() <= 1
    monkeypatch.setattr(jax, "local_devices", lambda: DEVICES[:1])
    alone, said = restored("alone.png", "--whole")
    assert said.startswith("Each image whole, on one device (cpu).\n")
    assert_same_levels(alone, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tile=64"], ["without tiles", "omit --tile"]),
        (["--overlap=0", "--tile=768"], ["omit --tile and --overlap"]),
        (["--model={file}"], ["is an exported program", "one device", "a workdir or a checkpoint"]),
    ],
)
def test_misuse_of_whole_is_named_before_any_work(options, words, model, tmp_path, capsys):
    file = tmp_path / "model.stablehlo"
    file.write_bytes(b"")
    output = tmp_path / "out"
    options = [option.format(file=file) for option in options]
    assert main(["restore", f"--model={model}", f"--output={output}", "--whole", str(file), *options]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert message.count("\n") == 1
    assert not output.exists()
