"""Images of many sizes in the corners of a few: what the network makes of them alone, for one compilation of each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from networks import draw_variables, images, quick_compiles, write_model  # noqa: F401
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.config.build import make_generator
from drsn_jax.config.files import load_config
from drsn_jax.models.generator import Generator
from drsn_jax.models.inference import apply_in_corner
from drsn_jax.ops.extent import Extent
from drsn_jax.ops.layout import convolve_zero_padded, mean_pixels, pad_by_reflection
from drsn_jax.restoration.core.restorer import make_restore_fn
from drsn_jax.restoration.core.sizes import shared_size
from drsn_jax.restoration.restore import restore_files
from drsn_jax.weights.model import Model

SMALL = {"widths": (4, 6, 8), "num_blocks": 1}
# `demo` is `best` at these sizes. After these two, every form that a layer can have.
CASES = {
    "paper": make_generator(load_config("paper")).clone(**SMALL),
    "best": make_generator(load_config("best")).clone(**SMALL),
    "instance norm": Generator(**SMALL, norm="instance", threshold_norm="layer", block_order="post", convs_per_block=1),
    "deblurgan": Generator(**SMALL, norm="instance", shrinkage=False, upsampling="transposed", strided_padding="torch", output="average"),
    "layer norm": Generator(**SMALL, trunk="unet", norm="layer", threshold_norm="batch", upsampling="transposed"),
    "folded": Generator(**SMALL, unshuffle=2, strided_padding="torch"),
}
SIZES = [(49, 58), (60, 60)]  # they share one; with a stride of 4 the second is all of it


def make_model(generator, rng):
    variables = draw_variables(generator, images(height=generator.stride, width=generator.stride))
    drawn = jax.tree.map(lambda leaf: leaf + (leaf.ndim == 1) * rng.uniform(0, 0.1, leaf.shape).astype(np.float32), variables)  # biases too
    predict_fn, corner_fn = (partial(jax.jit(function), drawn) for function in (generator.apply, partial(apply_in_corner, generator)))
    return Model(predict_fn, generator.stride, {}, {}, corner_fn=corner_fn)


@pytest.mark.parametrize("case", CASES)
def test_an_image_in_a_corner_is_restored_as_alone_by_one_program(case, rng):
    model = make_model(CASES[case], rng)
    alone, in_corner = make_restore_fn(model, share_programs=False), make_restore_fn(model)
    for height, width in SIZES:
        image = rng.random((height, width, 3), dtype=np.float32)
        expected, restored = alone(image), in_corner(image)
        np.testing.assert_allclose(restored, expected, atol=1e-5, rtol=0)
        assert np.abs(expected - image).mean() > 0.02
        assert ((expected > 0) & (expected < 1)).mean() > 0.5  # clipped values would hide what differs
        levels = [np.rint(values * 255) for values in (restored, expected)]
        assert np.abs(levels[0] - levels[1]).max() <= 1
    assert [function.func._cache_size() for function in (model.corner_fn, model.predict_fn)] == [1, len(SIZES)]  # pyright: ignore


@pytest.mark.parametrize(("rows", "columns"), [(2, 6), (5, 3), (6, 6)])
def test_beside_the_image_nothing_counts(rows, columns, rng):
    """Not a number: whatever takes part of it in a sum, or multiplies it by zero, shows."""
    height, width = 4 * rows, 4 * columns
    whole = rng.normal(size=(2, height, width, 2)).astype(np.float32)
    larger = np.full((2, 24, 24, 2), np.nan, np.float32)
    larger[:, :height, :width] = whole
    kernel = rng.normal(size=(3, 3, 2, 3)).astype(np.float32)

    def conv(stride, x):
        return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def apply(x, layout):
        convolved = [convolve_zero_padded(partial(conv, stride), x, margin=stride, layout=layout) for stride in (1, 2)]
        return [pad_by_reflection(x, margin, layout=layout) for margin in (1, 3)], convolved, mean_pixels(x, layout=layout)

    padded, convolved, mean = apply(jnp.asarray(larger), Extent(6, 6, jnp.asarray(rows), jnp.asarray(columns)))
    expected = apply(jnp.asarray(whole), None)
    for x, of_whole in zip(padded, expected[0], strict=True):
        np.testing.assert_array_equal(x[:, : of_whole.shape[1], : of_whole.shape[2]], of_whole)
    for x, of_whole in zip(convolved, expected[1], strict=True):
        np.testing.assert_allclose(x[:, : of_whole.shape[1], : of_whole.shape[2]], of_whole, atol=1e-5)
    np.testing.assert_allclose(mean, expected[2], atol=1e-6)


@given(strides=st.integers(4, 400), stride=st.sampled_from((4, 8, 16)), tile=st.one_of(st.none(), st.integers(1, 100)))
@settings(max_examples=300)
def test_shared_sizes_hold_the_image_and_are_little_larger(strides, stride, tile):
    size, largest = strides * stride, tile and tile * stride
    shared = shared_size(size, stride=stride, largest=largest)
    assert shared >= size
    assert shared % stride == 0
    assert shared < 1.25 * size or size < 12 * stride
    assert shared - size < 96
    assert largest is None or shared <= max(size, largest), "no more memory than --tile allows"


def test_there_are_few_shared_sizes():
    sizes = {shared_size(size, stride=8, largest=768) for size in range(32, 769, 8)}
    assert len(sizes) < 25
    assert shared_size(768, stride=8, largest=768) == 768, "a tile wastes nothing"


def test_frames_of_videos_have_a_restoration_of_their_own(tmp_path, rng):
    av = pytest.importorskip("av", reason="videos: pip install 'drsn-jax[video]'")
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / "a.png")
    with av.open(tmp_path / "b.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(rng.integers(0, 256, (24, 32, 3), np.uint8))))
        container.mux(stream.encode())
    called = []

    def make(name):
        return lambda image: called.append(name) or image

    report = restore_files([tmp_path / "b.mkv", tmp_path / "a.png"], restore_fn=make("photograph"), frame_fn=make("frame"))
    assert not report.failed
    assert called == ["photograph", "frame"]


def test_photographs_share_programs_and_scores_do_not(tmp_path, photograph, monkeypatch):
    """By the commands: what is traced of the network."""
    traced, model = [], write_model(tmp_path / "model", "unshuffle=2")

    def spy(network, blurred, *arguments, **options):
        traced.append((blurred.shape[1:3], network.layout is not None))
        return call(network, blurred, *arguments, **options)

    call = Generator.__call__
    monkeypatch.setattr(Generator, "__call__", spy)
    jax.clear_caches()
    for kind in ("blur", "sharp"):
        (tmp_path / kind).mkdir()
        for width in (97, 105):
            Image.fromarray(photograph[:100, :width]).save(tmp_path / kind / f"{width}.png")
    assert main(["restore", f"--model={model}", f"--output={tmp_path / 'out'}", str(tmp_path / "blur")]) == 0
    seen = [how for how in traced if how[0] != (8, 8)]  # of the parameters' shapes
    assert seen == [((120, 120), True)], "once for both"
    assert main(["evaluate", f"--model={model}", f"--output={tmp_path / 'report'}", f"--blurred={tmp_path}", f"--sharp={tmp_path}"]) == 0
    assert {((104, 104), False), ((104, 112), False)} <= set(traced)
    assert [how for how in traced if how[1]] == seen, "none in a corner"
