"""Shapes of objects from masks in files, and their place in front of a photograph."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from drsn_jax.config.files import load_config
from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.synthesis import objects
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.objects import SIDE, add_object, random_ellipse, random_shape, read_shapes, to_shape
from drsn_jax.run.data import open_data
from drsn_jax.system.errors import InputError
from drsn_jax.training.sharding import make_mesh


def draw_many(shapes, height, width, *, number):
    draw = jax.jit(jax.vmap(lambda key: random_shape(key, shapes, height, width)))
    return np.asarray(draw(jax.random.split(jax.random.key(0), number)), np.float64)


def bar(height=90, width=60):
    """Return an upright bar, three times as high as wide, in a frame."""
    mask = np.zeros((height + 37, width + 11), bool)
    mask[20 : 20 + height, 7 : 7 + height // 3] = True
    return mask


def all_of(number):
    return BadImages(number, what="masks", skip=False)


def test_a_shape_is_the_distance_to_the_edge_wherever_the_object_was():
    shape = to_shape(bar()).astype(float)
    assert shape.shape == (SIDE, SIDE)
    inside = np.argwhere(shape > 128)
    top, left = inside.min(0)
    bottom, right = inside.max(0) + 1
    assert (bottom - top, right - left) == (96, 32), "as large as possible"
    assert (top, left) == (16, 48), "in the middle"
    np.testing.assert_array_equal(shape, shape[::-1])
    across = (shape[SIDE // 2, left - 2 : left + 2] - 128) / 8
    np.testing.assert_allclose(across, [-1.5, -0.5, 0.5, 1.5])
    assert shape.max() == 128 + 8 * 15.5, "half of its width"
    np.testing.assert_array_equal(to_shape(np.pad(bar(), 50)), to_shape(bar()))


def test_a_shape_that_is_thinner_than_a_pixel_is_kept():
    mask = np.zeros((1000, 1000), bool)
    mask[:, 500] = True
    assert (to_shape(mask) > 128).sum() == 96


def test_shapes_lie_anywhere_in_every_direction_and_in_their_proportion():
    shapes = to_shape(bar())[None]
    areas, centres, ratios = [], [], []
    for mask in draw_many(shapes, 120, 100, number=150):
        assert mask.min() >= 0
        assert mask.max() <= 1
        y, x = np.nonzero(mask > 0.5)
        if not len(y) or min(y.min(), x.min()) == 0 or y.max() == 119 or x.max() == 99:
            continue  # partly outside
        extents = np.sqrt(12 * np.linalg.eigvalsh(np.cov(np.stack([y, x]))))  # of a rectangle: its sides
        ratios.append(extents[1] / extents[0])
        areas.append(extents[1])
        centres.append((y.mean(), x.mean()))
    assert len(areas) > 15
    np.testing.assert_allclose(np.median(ratios), 3, rtol=0.15)
    assert min(areas) >= 0.18 * 100
    assert max(areas) <= 0.83 * 100
    assert np.ptp(centres, axis=0).min() > 40


def test_the_edge_has_a_slope_of_three_pixels_however_large_the_object_is():
    shapes = to_shape(bar(90, 90))[None]
    for mask in draw_many(shapes, 160, 160, number=20):
        steps = np.hypot(*np.gradient(mask))
        if mask.max() == 1:
            assert 0.2 < steps.max() < 0.45, "a third of the way a pixel"


def test_every_shape_is_drawn_and_mirrored():
    left = np.zeros((60, 60), bool)
    left[:, :20] = left[40:] = True  # an L: no rotation turns it into its mirror image
    shapes = np.stack([to_shape(left), to_shape(bar())])
    masks = draw_many(shapes, 300, 300, number=60) > 0.5
    filled = []
    for mask in masks:
        y, x = np.nonzero(mask)
        if len(y) and min(y.min(), x.min()) > 0 and max(y.max(), x.max()) < 299:
            rectangle = 12 * np.sqrt(np.linalg.det(np.cov(np.stack([y, x]))))
            filled.append(len(y) / rectangle)
    full = np.mean(np.array(filled) > 0.95)
    assert 0.2 < full < 0.8, "a bar fills its rectangle, an L does not"


def test_without_shapes_objects_are_the_ellipses_of_before():
    recipe = BlurRecipe(length=(2.0, 4.0), variation=0.0, object_share=1.0)
    light = jnp.ones((40, 40, 3))
    key = jax.random.key(2)
    _, mask_key, _ = jax.random.split(key, 3)
    add = jax.jit(partial(add_object, recipe=recipe))
    seen = add(key, light, jnp.zeros_like(light))
    ellipse = random_ellipse(mask_key, 40, 40)
    assert float(jnp.abs(seen.sum((0, 1)) - ellipse.sum()).max()) < 1e-2 * float(ellipse.sum()), "blur keeps the total light"
    shapes = to_shape(bar())[None]
    other = add(key, light, jnp.zeros_like(light), shapes=shapes)
    expected = random_shape(mask_key, shapes, 40, 40)
    assert float(jnp.abs(other.sum((0, 1)) - expected.sum()).max()) < 1e-2 * float(expected.sum())


@pytest.fixture
def masks(tmp_path):
    """Write masks as in DAVIS: one bit, colours of a palette, and a frame without the object."""
    folder = tmp_path / "masks"
    (folder / "bar").mkdir(parents=True)
    Image.fromarray(bar()).save(folder / "bar" / "00000.png")
    palette = Image.fromarray(bar().astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(folder / "bar" / "00001.png")
    Image.fromarray(np.zeros((50, 60), bool)).save(folder / "bar" / "00002.png")
    return folder


def test_masks_are_read_whatever_their_colours(masks):
    shapes = read_shapes([masks], bad_images_fn=all_of)
    assert shapes.shape == (2, SIDE, SIDE)
    np.testing.assert_array_equal(shapes[0], to_shape(bar()))
    np.testing.assert_array_equal(shapes[1], shapes[0])
    with pytest.raises(InputError, match=r"no folder .*nowhere; .*object_masks"):
        read_shapes([masks, masks / "nowhere"], bad_images_fn=all_of)
    for i in range(2):
        (masks / "bar" / f"0000{i}.png").unlink()
    with pytest.raises(InputError, match=r"masks: none of 1 images is the mask of an object\. .*object_masks"):
        read_shapes([masks], bad_images_fn=all_of)


def test_a_run_takes_its_masks(masks, tmp_path, rng, monkeypatch):
    (tmp_path / "photos").mkdir()
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    changes = {"data": "photos", "train_dir": tmp_path / "photos", "hold_out_every": 2, "noise_variance": "0,0", "batch_size": 8}
    changes |= {"blur_object": 1.0, "blur_length": "8,8", "blur_variation": 0.0, "crop_size": 16, "object_masks": masks}
    monkeypatch.setattr(objects, "random_ellipse", lambda *size: pytest.fail("an ellipse was drawn"))
    data = open_data(load_config("default", tiny.options(**changes)), mesh=make_mesh())
    assert "2 shapes of objects" in data.description
    assert next(iter(data.stream_fn(0, 1)))["blurred"].shape == (8, 16, 16, 3)
    with pytest.raises(InputError, match=r"object_masks has no effect without objects; add --config.blur_object"):
        load_config("default", tiny.options(**changes | {"blur_object": 0.0}))
