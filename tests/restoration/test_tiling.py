"""Padding and tiling: any size comes back as it was, blended without seams, in tiles of one shape."""

import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_jax.restoration.core.tiling import restore_array, restore_uint8, tile_starts, tile_weights
from drsn_jax.system.errors import InputError


class Identity:
    """Gives back what it gets, as a network would see it, and remembers the shapes."""

    def __init__(self):
        self.shapes, self.ranges = [], []

    def __call__(self, blurred):
        assert blurred.dtype == np.float32
        self.shapes.append(blurred.shape)
        self.ranges.append((blurred.min(), blurred.max()))
        return blurred


def box_blur(blurred):
    """3x3 mean with replicated edges: reach one pixel."""
    padded = np.pad(blurred, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = blurred.shape[1:3]
    return sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9


def image_of(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


@st.composite
def tilings(draw):
    stride = draw(st.sampled_from([1, 2, 4, 8]))
    tile = stride * draw(st.integers(1, 100 // stride))
    return stride, tile, draw(st.integers(tile // 4, tile - 1) if tile < 8 else st.integers(0, tile - tile // 8))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), tilings())
def test_identity_gives_back_any_image(height, width, tiling):
    stride, tile, overlap = tiling
    image, identity = image_of(height, width), Identity()
    restored = restore_array(image, predict_fn=identity, stride=stride, tile=tile, overlap=overlap)
    assert restored.shape == image.shape
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, image, atol=1e-6)
    assert len(set(identity.shapes)) == 1
    assert all(size % stride == 0 for size in identity.shapes[0][1:3])
    assert min(low for low, _ in identity.ranges) >= -1
    assert max(high for _, high in identity.ranges) <= 1


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 300).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1))))
def test_weights_sum_to_one_and_cover(length, tiling):
    tile, overlap = tiling
    starts = tile_starts(length, tile=tile, overlap=overlap)
    weights = tile_weights(length, tile=tile, overlap=overlap)
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + len(weight)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-12)
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert weights.shape[1] == min(tile, length)
    assert (starts[0], starts[-1]) == (0, max(length - tile, 0))
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(starts))


def test_blend_is_smooth():
    weights = tile_weights(2000, tile=768, overlap=64)
    assert np.abs(np.diff(weights, axis=1)).max() < 0.05  # no step anywhere: a raised cosine over 32 pixels moves at most pi / 64


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 160), st.integers(1, 160), st.sampled_from([(48, 4), (48, 16), (64, 33), (40, 36)]))
def test_local_filter_tiles_without_seams(height, width, tiling):
    tile, overlap = tiling
    image = image_of(height, width)
    whole = restore_array(image, predict_fn=box_blur, stride=4, tile=1024, overlap=0)
    tiled = restore_array(image, predict_fn=box_blur, stride=4, tile=tile, overlap=overlap)
    # The last row and column see the padding of the whole image where a tile ends with the image itself.
    np.testing.assert_allclose(tiled[: height - 1, : width - 1], whole[: height - 1, : width - 1], atol=1e-6)


def test_too_little_overlap_shows_seams():
    image = image_of(160, 160)
    whole = restore_array(image, predict_fn=box_blur, stride=4, tile=1024, overlap=0)
    tiled = restore_array(image, predict_fn=box_blur, stride=4, tile=48, overlap=0)
    assert np.abs(tiled - whole).max() > 1e-2


def test_large_image_is_one_compilation():
    compiled = []

    @jax.jit
    def predict_fn(blurred):
        compiled.append(blurred.shape)
        return blurred

    image = image_of(333, 517)
    np.testing.assert_allclose(restore_array(image, predict_fn=predict_fn, stride=4, tile=96, overlap=16), image, atol=1e-6)
    assert compiled == [(1, 96, 96, 3)]


def test_without_a_tile_nothing_is_cut():
    identity = Identity()
    image = image_of(333, 1002)
    np.testing.assert_allclose(restore_array(image, predict_fn=identity, stride=4, tile=None), image, atol=1e-6)
    assert identity.shapes == [(1, 336, 1004, 3)]


def test_padding_mirrors_the_image():
    seen = []
    image = image_of(14, 18)
    restore_array(image, predict_fn=lambda blurred: seen.append(blurred) or blurred, stride=4)
    assert seen[0].shape == (1, 16, 20, 3)
    np.testing.assert_allclose(seen[0][0, 14:, :18], image[12:10:-1] * 2 - 1, atol=1e-6)
    np.testing.assert_allclose(seen[0][0, :14, 18:], image[:, 16:14:-1] * 2 - 1, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (3, 2), (16, 17), (1, 300)])
def test_tiny_images_reach_the_network_at_a_sensible_size(height, width):
    identity = Identity()
    image = image_of(height, width)
    np.testing.assert_allclose(restore_array(image, predict_fn=identity, stride=4), image, atol=1e-6)
    assert min(identity.shapes[0][1:3]) >= 16


def test_uint8_is_exact_and_rounds(rng):
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    np.testing.assert_array_equal(restore_uint8(image, predict_fn=Identity(), stride=4, tile=32, overlap=8), image)
    lifted = restore_uint8(image, predict_fn=lambda blurred: blurred + 2 * 0.6 / 255, stride=4)
    np.testing.assert_array_equal(lifted, np.minimum(image.astype(int) + 1, 255))  # truncation would leave it as it was


def test_overshoot_is_clipped():
    image = image_of(20, 20)
    restored = restore_array(image, predict_fn=lambda blurred: blurred * 3, stride=4)
    assert restored.min() == 0
    assert restored.max() == 1


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (np.zeros((8, 8, 3), np.float32), {"tile": 30}, ["Tile size 30", "stride 4", "--tile=32"]),
        (np.zeros((8, 8, 3), np.float32), {"tile": 0}, ["Tile size 0", "--tile=4"]),
        (np.zeros((8, 8, 3), np.float32), {"tile": 32, "overlap": 32}, ["Overlap 32", "--overlap=2"]),
        (np.zeros((8, 8, 3), np.float32), {"overlap": -1}, ["Overlap -1"]),
        (np.zeros((0, 8, 3), np.float32), {}, ["(0, 8, 3)"]),
        (np.full((8, 8, 3), np.nan, np.float32), {}, ["not finite", "checkpoint"]),
    ],
)
def test_mistakes_are_named(image, options, words):
    with pytest.raises(InputError) as error:
        restore_array(image, predict_fn=Identity(), stride=4, **options)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="h w 3"):
        restore_array(np.zeros((8, 8), np.float32), predict_fn=Identity(), stride=4)


def test_shape_changing_network_is_refused():
    with pytest.raises(ValueError, match="must keep the shape"):
        restore_array(image_of(16, 16), predict_fn=lambda blurred: blurred[:, :1], stride=4)


def test_restoration_needs_no_tensorflow():
    modules = ["core.tiling", "core.spread", "files.encoding", "files.images", "jobs", "restore"]
    code = "import sys\n" + "\n".join(f"import drsn_jax.restoration.{name}" for name in modules)
    code += "\nassert not {'tensorflow', 'tensorflow_datasets', 'clu'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
