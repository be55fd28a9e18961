"""Data on the device: windows traced back pixel by pixel to where they were cut; photographs and what is held out of them."""

import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.synthesis import bank as bank_module
from drsn_jax.data.synthesis import photos
from drsn_jax.data.synthesis.bank import Bank, check_room, make_bank
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.resident import make_batch_fn, sample_window
from drsn_jax.system.errors import InputError

SIZES = ((9, 40), (30, 12), (16, 17))
QUIET = BlurRecipe(length=(0.0, 3.0), variation=0.0, saturation=0.0, noise_variance=(0.0, 0.0))


def coded(index, height, width):
    """Every pixel says where it is: (image, row, column)."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = index, np.arange(height)[:, None], np.arange(width)
    return image


IMAGES = [coded(i, *size) for i, size in enumerate(SIZES)]


def bank_of(images, crop_size=8):
    return make_bank(images, names=[f"image{i}.png" for i in range(len(images))], crop_size=crop_size)


def windows(images=IMAGES, *, number, size=8, margin=0, flip=False, rotate=False, seed=0):
    cut = partial(sample_window, size=size, margin=margin, flip=flip, rotate=rotate)
    keys = jax.random.split(jax.random.key(seed), number)
    return np.asarray(jax.jit(jax.vmap(cut, in_axes=(None, 0)))(bank_of(images), keys))


def test_windows_are_cut_from_the_images_and_reach_every_corner():
    seen = windows(number=600)
    assert seen.shape == (600, 8, 8, 3)
    corners = {i: set() for i in range(3)}
    for window in seen:
        index, top, left = map(int, window[0, 0])
        np.testing.assert_array_equal(window, IMAGES[index][top : top + 8, left : left + 8])
        corners[index].add((top, left))
    for index, (height, width) in enumerate(SIZES):
        tops, lefts = ({corner[axis] for corner in corners[index]} for axis in (0, 1))
        assert (min(tops), max(tops)) == (0, height - 8)
        assert (min(lefts), max(lefts)) == (0, width - 8)


def test_a_crop_as_large_as_the_image():
    seen = windows([coded(0, 8, 8)], number=3)
    np.testing.assert_array_equal(seen, np.broadcast_to(coded(0, 8, 8), seen.shape))


@pytest.mark.parametrize("margin", [3, 20])
def test_margins_are_mirrored(margin):
    """As np.pad(mode="reflect") of the whole image, as often as it takes."""
    padded = [np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="reflect") for image in IMAGES]
    side = 8 + 2 * margin
    for window in windows(number=60, margin=margin):
        index, top, left = map(int, window[margin, margin])
        np.testing.assert_array_equal(window, padded[index][top : top + side, left : left + side])


def test_images_are_drawn_by_area():
    counts = np.bincount(windows(number=4000)[:, 0, 0, 0], minlength=3) / 4000
    areas = np.array([h * w for h, w in SIZES])
    np.testing.assert_allclose(counts, areas / areas.sum(), atol=0.03)


@pytest.mark.parametrize(("flip", "rotate", "kinds"), [(False, False, 1), (True, False, 2), (False, True, 4), (True, True, 8)])
def test_flips_and_quarter_turns(flip, rotate, kinds):
    """The eight symmetries of the square, each about equally often; flips alone are left to right."""
    square = coded(0, 8, 8)
    symmetries = [np.rot90(square[:, ::-1] if mirrored else square, turns) for mirrored in (0, 1) for turns in range(4)]
    seen = windows([square], number=400, flip=flip, rotate=rotate)
    which = [next(i for i, s in enumerate(symmetries) if np.array_equal(window, s)) for window in seen]
    counts = np.bincount(which, minlength=8)
    assert (counts > 0).sum() == kinds
    assert counts[counts > 0].min() > 0.6 * 400 / kinds
    if flip and not rotate:
        assert counts[4] > 0, "left to right"


def test_the_windows_of_a_seed_are_those_of_older_workdirs():
    """Whole numbers alone are drawn and moved. The digest is of what was drawn when images lay end to end in one flat array."""
    seen = windows(number=64, margin=5, flip=True, rotate=True)
    assert hashlib.sha256(seen.tobytes()).hexdigest()[:16] == "120a3fc1877847b6"


# The sheet


@pytest.mark.parametrize("sizes", [SIZES, ((12, 12),) * 7, ((30, 9), (8, 100), (9, 9), (9, 10), (50, 20))])
def test_every_image_has_a_place_of_its_own_on_the_sheet(sizes):
    images = [coded(i + 1, *size) for i, size in enumerate(sizes)]
    bank = bank_of(images)
    sheet = np.asarray(bank.pixels).reshape(len(bank.pixels), -1, 3)
    for image, top, left in zip(images, bank.tops, bank.lefts, strict=True):
        height, width, _ = image.shape
        np.testing.assert_array_equal(sheet[top : top + height, left : left + width], image)
    assert (sheet[..., 0] > 0).sum() == sum(height * width for height, width in sizes), "none covers another"
    if len(set(sizes)) == 1:
        assert bank.pixels.size == sum(image.size for image in images), "nothing is wasted on images of one size"


def test_a_sheet_beyond_2_gb_is_cut_as_slices_of_rows():
    """By shapes alone: the only thing done to the sheet is to cut a window from it, at a row and a column of 32 bits."""
    sheet, numbers = jax.ShapeDtypeStruct((1_000_000, 4096 * 3), np.uint8), jax.ShapeDtypeStruct((9,), np.int32)
    assert sheet.size > 5 * 2**31
    for margin, side in ((0, 128), (20, 168)):

        def cut(key, sheet, numbers, margin=margin):
            bank = Bank(sheet, numbers, numbers, numbers, numbers, channels=3)
            return sample_window(bank, key, size=128, margin=margin, flip=True, rotate=True)

        jaxpr = jax.make_jaxpr(cut)(jax.random.key(0), sheet, numbers).jaxpr
        uses = [eqn for eqn in jaxpr.eqns if jaxpr.invars[1] in eqn.invars]
        assert [(eqn.primitive.name, eqn.params["slice_sizes"]) for eqn in uses] == [("dynamic_slice", (side, side * 3))]
        text = jax.jit(jax.vmap(cut, in_axes=(0, None, None))).lower(jax.random.split(jax.random.key(0), 8), sheet, numbers).as_text()
        assert "1000000x12288xui8" in text, "it is not copied into another shape"
        assert f"slice_sizes = array<i64: {side}, {side * 3}>" in text


@pytest.mark.parametrize("margin", [0, 5])
def test_windows_of_a_sheet_beyond_2_gb_begin_where_they_should(margin, monkeypatch):
    """The numbers themselves, of a sheet that is not there: in bytes from its beginning they would not fit into 32 bits."""
    seen = []

    def record(pixels, start, sizes):
        seen.append([int(at) for at in start])
        return jnp.zeros(sizes, np.uint8)

    class Sheet:
        shape = (1_000_000, 4096 * 3)

    tops, lefts, side = np.array([999_000, 999_500], np.int32), np.array([4000, 0], np.int32), 8 + 2 * margin
    sizes = np.array([40, 500], np.int32), np.array([50, 96], np.int32)
    bank = Bank(jnp.zeros((1, 1), np.uint8), *map(jnp.asarray, (tops, lefts, *sizes)), channels=3)
    object.__setattr__(bank, "pixels", Sheet())
    monkeypatch.setattr(jax.lax, "dynamic_slice", record)
    for seed in range(12):
        sample_window(bank, jax.random.key(seed), size=8, margin=margin, flip=False, rotate=False)
    assert len(seen) == 12
    for row, byte in seen:
        assert 999_000 <= row <= 999_040 - side or 999_500 <= row <= 1_000_000 - side
        assert byte % 3 == 0
        assert 4000 <= byte // 3 <= 4050 - side if row < 999_500 else 0 <= byte // 3 <= 96 - side
        assert row * Sheet.shape[1] + byte > 2**31


# Batches


def test_pairs_get_the_same_window_flip_and_turn():
    pairs = [np.concatenate([image, 255 - image], axis=-1) for image in IMAGES]
    recipe = QUIET._replace(length=(0.0, 25.0))
    batch = jax.jit(make_batch_fn(batch_size=64, crop_size=8, recipe=recipe))(bank_of(pairs), jax.random.key(0))
    blurred, sharp = (np.asarray(batch[name]) for name in ("blurred", "sharp"))
    assert blurred.shape == sharp.shape == (64, 8, 8, 3)
    np.testing.assert_allclose(blurred, -sharp, atol=1e-6)
    codes = np.rint((blurred + 1) * 127.5).astype(int)
    assert len({tuple(window[0, 0]) for window in codes}) > 20
    turned = [abs(window[1, 0] - window[0, 0])[1] == 0 for window in codes]
    assert 0.2 < np.mean(turned) < 0.8, "about half of them stand on their side"


def test_only_the_noise_of_the_recipe_touches_pairs_and_only_the_blurred():
    flat = np.full((16, 16, 6), 128, np.uint8)
    recipe = BlurRecipe(noise_variance=(0.001, 0.001))
    batch = jax.jit(make_batch_fn(batch_size=32, crop_size=16, recipe=recipe))(bank_of([flat], 16), jax.random.key(0))
    assert np.ptp(batch["sharp"]) == 0
    deviation = np.asarray(batch["blurred"]).std() / 2  # the image scale [0, 1]
    assert deviation == pytest.approx(np.sqrt(0.001), rel=0.05)
    assert np.abs(batch["blurred"][0] - batch["blurred"][1]).max() > 0.01, "each image has its own noise"


def test_photographs_are_blurred_in_range(photograph):
    recipe = BlurRecipe(length=(2.0, 6.0))
    batch_fn = jax.jit(make_batch_fn(batch_size=4, crop_size=16, recipe=recipe))
    bank = bank_of([photograph[:64, :80]], 16)
    batch = batch_fn(bank, jax.random.key(0))
    for x in batch.values():
        assert x.shape == (4, 16, 16, 3)
        assert x.dtype == jnp.float32
        assert np.abs(x).max() <= 1
        codes = (np.asarray(x, np.float64) + 1) * 127.5
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert np.abs(batch["blurred"] - batch["sharp"]).max() > 0.05
    again, other = batch_fn(bank, jax.random.key(0)), batch_fn(bank, jax.random.key(1))
    for name in batch:
        np.testing.assert_array_equal(batch[name], again[name])
        assert np.abs(batch[name] - other[name]).max() > 0.05


def test_sharp_windows_of_photographs_are_of_the_photograph():
    """With no blur to speak of, the margin is cut off again and blurred equals sharp equals the source."""
    recipe = QUIET._replace(length=(0.0, 0.0))
    batch = jax.jit(make_batch_fn(batch_size=16, crop_size=8, recipe=recipe, flip=False, rotate=False))(bank_of(IMAGES), jax.random.key(0))
    for window in np.rint((np.asarray(batch["sharp"]) + 1) * 127.5).astype(int):
        index, top, left = window[0, 0]
        np.testing.assert_array_equal(window, IMAGES[index][top : top + 8, left : left + 8])
    np.testing.assert_allclose(batch["blurred"], batch["sharp"], atol=1e-6)


# Messages


def test_an_image_smaller_than_the_crop_is_named():
    with pytest.raises(InputError, match=r"image0\.png is 40x9, smaller than the crop of 10; use --config.crop_size=9"):
        bank_of(IMAGES, crop_size=10)


def test_no_images():
    with pytest.raises(InputError, match=r"--config.train_dir=DIR"):
        make_bank([], names=[], crop_size=8)


def test_more_than_fits_into_memory(monkeypatch):
    monkeypatch.setattr(bank_module, "half_of_memory", lambda: 2_200_000_000)
    check_room(730_000_000, channels=3)  # more than 32 bits reach
    with pytest.raises(InputError, match=r"800 megapixels take 2\.4 GB, and half .* is 2\.2 GB\. .*--config.data=pairs"):
        check_room(800_000_000, channels=3)
    huge = np.broadcast_to(np.uint8(0), (40_000, 20_000, 3))
    with pytest.raises(InputError, match="800 megapixels"):
        make_bank([huge], names=["huge.png"], crop_size=8)


def test_a_recipe_is_checked():
    with pytest.raises(InputError, match="length"):
        make_batch_fn(batch_size=1, crop_size=8, recipe=BlurRecipe(length=(3.0, 1.0)))


# Photographs


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "trip" / "day2").mkdir(parents=True)
    for name in ("trip/b.png", "trip/a.JPG", "trip/day2/c.webp", "trip/day2/d.tif"):
        Image.fromarray(coded(7, 20, 24)).save(tmp_path / name)
    (tmp_path / "trip" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "trip" / "notes.txt").write_text("no image either")
    return tmp_path / "trip"


def all_of(number):
    """Count all images, and skip none."""
    return BadImages(number, what="photographs", skip=False)


def test_a_folder_is_read_below_and_sorted(folder):
    found = photos.find_photos(folder)
    read = photos.read_photos(found, bad_images=all_of(4))
    assert list(found) == list(read) == ["a.JPG", "b.png", "day2/c.webp", "day2/d.tif"]
    np.testing.assert_array_equal(read["b.png"], coded(7, 20, 24))
    assert {image.dtype for image in read.values()} == {np.dtype(np.uint8)}


def test_folders_that_cannot_be_read(folder, tmp_path):
    with pytest.raises(InputError, match=r"no folder .*nowhere; .*--config.train_dir=DIR"):
        photos.find_photos(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no photographs; .*\.jpg"):
        photos.find_photos(tmp_path / "empty")
    (folder / "broken.png").write_bytes(b"not a PNG")
    with pytest.raises(InputError, match=r"broken\.png"):
        photos.read_photos(photos.find_photos(folder), bad_images=all_of(5))


def test_hold_out_is_every_nth_and_shares_nothing():
    named = {f"{i:02d}.png": IMAGES[0] for i in range(10)}
    training, held = photos.hold_out(named, every=4)
    assert list(held) == ["00.png", "04.png", "08.png"]
    assert not set(training) & set(held)
    assert set(training) | set(held) == set(named)


def test_hold_out_of_too_few():
    with pytest.raises(InputError, match="1 photographs are too few"):
        photos.hold_out({"a.png": IMAGES[0]}, every=10)
    with pytest.raises(InputError, match="too few"):
        photos.hold_out({"a.png": IMAGES[0], "b.png": IMAGES[1]}, every=1)


def test_demo_photographs_are_disjoint_by_subject(photograph):
    training, held = (photos.read_demo_photos(names) for names in (photos.DEMO_TRAINING, photos.DEMO_HELD_OUT))
    assert len(training) == len(photos.DEMO_TRAINING)
    assert len(held) == len(photos.DEMO_HELD_OUT)
    assert not set(training) & set(held)
    np.testing.assert_array_equal(training["astronaut"], photograph)
    sides = [{name for name in names if "motorcycle" in name} for names in (training, held)]
    assert sorted(map(len, sides)) == [0, 2], "both views of one motorcycle stand on one side"
    thumbnails = {
        name: np.asarray(Image.fromarray(image).convert("L").resize((16, 16)), float).ravel() for name, image in (training | held).items()
    }
    for a in held:
        for b in training:
            assert np.corrcoef(thumbnails[a], thumbnails[b])[0, 1] < 0.9, f"{a} is {b} again"
    assert min(min(image.shape[:2]) for image in (training | held).values()) >= 96, "the demo's crop"


def test_blurred_validation_is_seeded_noiseless_and_spread_over_the_lengths():
    named = {"a.png": np.asarray(coded(0, 32, 40)), "b.png": np.asarray(coded(1, 36, 32))}
    recipe = BlurRecipe(length=(2.0, 10.0), noise_variance=(0.01, 0.01))
    samples = photos.blur_photographs(named, recipe=recipe, copies=2, key=jax.random.key(3))
    assert [name for name, _, _ in samples] == ["a-01-3px", "b-02-5px", "a-03-7px", "b-04-9px"]
    for name, blurred, sharp in samples:
        source = named[f"{name[0]}.png"]
        np.testing.assert_array_equal(sharp, source)
        assert blurred.shape == source.shape, "whole, with mirrored margins"
        assert blurred.dtype == np.uint8
        assert (blurred[..., 0] == source[..., 0]).mean() > 0.99, "a constant channel stays so: no noise"
    again = photos.blur_photographs(named, recipe=recipe, copies=2, key=jax.random.key(3))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(samples, again, strict=True))
    other = photos.blur_photographs(named, recipe=recipe, copies=2, key=jax.random.key(4))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(samples, other, strict=True))
