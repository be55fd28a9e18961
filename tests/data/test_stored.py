"""Prepared data sets read back: the images, the batches made of them, and what a name may mean."""

import io
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import downloads
import numpy as np
import pytest
from PIL import Image

from drsn_jax.data.images.rgb import image_size, read_rgb
from drsn_jax.data.pairs.crops import CropLoader
from drsn_jax.data.pairs.folders import check_pairs, find_pairs
from drsn_jax.data.pairs.pipeline import make_batches
from drsn_jax.data.prepared.prepare import prepare_dataset
from drsn_jax.data.prepared.sets import default_data_dir
from drsn_jax.data.prepared.stored import find_pairs_or_prepared, is_prepared_spec, open_prepared
from drsn_jax.system.errors import InputError

pytest.importorskip("tensorflow_datasets", reason="pip install 'drsn-jax[data]'")
pytest.importorskip("array_record", reason="pip install 'drsn-jax[data]'")


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    downloads.expect_tiny(monkeypatch)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def _refused(function, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _prepare(tmp_path, dataset, files, **kwargs):
    source = downloads.write_folder(tmp_path / "source" / dataset, files)
    prepare_dataset(dataset, source=source, say_fn=len, **kwargs)
    return source


@pytest.fixture
def gopro(tmp_path):
    """Return GoPro's folder, which is also prepared."""
    return _prepare(tmp_path, "gopro", downloads.gopro_files(), variant="linear")


def _encoded(image, suffix):
    stream = io.BytesIO()
    image.save(stream, suffix)
    return stream.getvalue()


@pytest.fixture
def mixed(tmp_path):
    """Write pairs of all kinds of images: colour, grey, a palette, 16 bits, transparent, JPEG, WebP, turned."""
    noise = Image.open(io.BytesIO(downloads.image(1)))
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 65536, downloads.SIZE, dtype=np.uint16))
    turned = noise.rotate(90, expand=True)
    exif = turned.getexif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    turned.save(stream, "JPEG", exif=exif)
    kinds = {
        "colour.png": downloads.image(2),
        "grey.png": downloads.image(3, mode="L"),
        "grey.jpg": downloads.image(3, mode="L", suffix="JPEG"),
        "palette.png": _encoded(noise.convert("P"), "PNG"),
        "deep.png": _encoded(deep, "PNG"),
        "clear.png": downloads.image(4, mode="RGBA"),
        "photo.jpg": downloads.image(5, suffix="JPEG"),
        "lossless.webp": _encoded(noise, "WEBP"),
        "turned.jpg": stream.getvalue(),
    }
    files = {f"blur/{name.replace('.', '_')}.{name.split('.')[1]}": contents for name, contents in kinds.items()}
    sharp = {name.replace("blur/", "sharp/").rpartition(".")[0] + ".png": downloads.image(name) for name in files}
    return _prepare(tmp_path, "deblurring_pairs", files | sharp, variant="mixed")


def test_stored_images_are_the_files(gopro):
    pairs, stored = find_pairs(gopro / "test"), open_prepared("gopro/linear:test").pairs
    assert [pair.name for pair in stored] == [pair.name for pair in pairs] == ["T/000000", "T/000001"]
    for one, other in zip(stored, pairs, strict=True):
        for side in ("blurred", "sharp"):
            image, path = getattr(one, side), getattr(other, side)
            assert image.read_bytes() == path.read_bytes()
            assert image_size(image) == image_size(path) == downloads.SIZE
            np.testing.assert_array_equal(read_rgb(image), read_rgb(path))
    assert str(stored[1].sharp) == "gopro/linear:test 000001 T/000001 sharp"
    check_pairs(stored, min_size=24)
    assert "gopro/linear:test 000000 T/000000 blurred is 24x40" in _refused(check_pairs, stored, min_size=25)


def test_grey_among_colour_and_every_other_kind_is_read_as_from_a_file(mixed):
    stored = {pair.name: pair for pair in open_prepared("deblurring_pairs/mixed:train").pairs}
    assert len(stored) == 9
    for pair in find_pairs(mixed):
        np.testing.assert_array_equal(read_rgb(stored[pair.name].blurred), read_rgb(pair.blurred))
        assert image_size(stored[pair.name].blurred) == image_size(pair.blurred) == downloads.SIZE
    assert len(np.unique(read_rgb(stored["grey_png"].blurred), axis=-1)) == downloads.SIZE[0]


def test_sizes_are_known_without_opening_anything(gopro, data_dir):
    pairs = open_prepared("gopro:train").pairs
    for path in (data_dir / "gopro/linear/1.0.0").glob("*array_record*"):
        path.unlink()
    check_pairs(pairs, min_size=24)
    message = _refused(read_rgb, pairs[0].blurred)
    assert "gopro/linear:train 000000 A/000000 blurred cannot be read" in message
    assert "--overwrite" in message


def test_a_damaged_record_names_the_image(gopro, data_dir):
    [path] = (data_dir / "gopro/linear/1.0.0").glob("*test*")
    contents = bytearray(path.read_bytes())
    contents[3000:9000] = b"\0" * 6000
    path.write_bytes(contents)
    messages = [_refused(pair.sharp.read_bytes) for pair in open_prepared("gopro:test").pairs]
    assert all("cannot be read" in message for message in messages)


def test_reading_in_many_threads_and_after_pickling(gopro):
    pairs = open_prepared("gopro:train").pairs * 20
    whole = [pair.blurred.read_bytes() for pair in pairs]
    fresh = open_prepared("gopro:train").pairs * 20
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda pair: pair.blurred.read_bytes(), fresh)) == whole
    again = pickle.loads(pickle.dumps(pairs))
    assert again[3] == pairs[3]
    assert [pair.blurred.read_bytes() for pair in again] == whole


def test_crops_are_cut_alike(mixed):
    stored, pairs = open_prepared("deblurring_pairs").pairs, find_pairs(mixed)
    loaders = [CropLoader([(pair.blurred, pair.sharp) for pair in some], frame="crop", crop_size=16, flip=True) for some in (stored, pairs)]
    for number in range(len(pairs)):
        draws = np.random.default_rng(number).random(4)
        np.testing.assert_array_equal(*(load(number, draws) for load in loaders))


@pytest.mark.parametrize("cache", [False, True])
def test_batches_are_those_of_the_folders_bit_for_bit_and_resume(mixed, cache):
    pytest.importorskip("tensorflow", reason="tf.data: pip install 'drsn-jax[data]'")
    options = {"batch_size": 4, "crop_size": 16, "seed": 3, "noise_variance": (0.0, 0.01), "cache": cache}
    whole = list(make_batches(find_pairs(mixed), num_steps=6, **options))
    pairs = find_pairs_or_prepared("deblurring_pairs/mixed", default_split="train")
    for start in (0, 1, 4):
        batches = list(make_batches(pairs, start_step=start, num_steps=6 - start, **options))
        for batch, other in zip(batches, whole[start:], strict=True):
            for side in ("blurred", "sharp"):
                np.testing.assert_array_equal(batch[side], other[side])
    assert len({batch["blurred"].tobytes() for batch in whole}) == 6


def test_the_stream_names_a_stored_image_that_does_not_fit(tmp_path):
    pytest.importorskip("tensorflow", reason="tf.data: pip install 'drsn-jax[data]'")
    _prepare(tmp_path, "deblurring_pairs", downloads.images("blur/a.png", "sharp/a.png"), variant="small")
    pairs = find_pairs_or_prepared("deblurring_pairs", default_split="test")
    message = _refused(list, make_batches(pairs, batch_size=1, crop_size=30, num_steps=1))
    assert "deblurring_pairs/small:train 000000 a blurred gives a frame of 24x40" in message


def test_koehler(tmp_path):
    _prepare(tmp_path, "koehler", downloads.koehler_files())
    files = downloads.koehler_files()
    opened = open_prepared("koehler")
    assert (opened.name, opened.kind, opened.metadata["single_truth"], opened.pairs) == ("koehler", "koehler", False, [])
    assert [(name, scene, trajectory) for name, scene, trajectory, _ in opened.blurred] == [
        (f"scene{s}/Blurry{s}_{t}", s, t) for s in (1, 2) for t in (1, 2)
    ]
    for _, scene, trajectory, image in opened.blurred:
        assert image.read_bytes() == files[f"BlurryImages/Blurry{scene}_{trajectory}.png"]
        for frame, (number, truth) in enumerate(opened.truths(scene, trajectory), start=1):
            assert number == frame
            assert truth.read_bytes() == files[f"Image{scene}/Kernel{trajectory}/GroundTruth{scene}_{trajectory}_{frame}.png"]
    assert "no sharp frames of scene 4, trajectory 1" in _refused(opened.truths, 4, 1)
    assert "holds no pairs" in _refused(find_pairs_or_prepared, "koehler")
    assert "has no split 'test'" in _refused(open_prepared, "koehler:test")


def test_koehler_frames_are_in_the_order_of_their_numbers(tmp_path):
    _prepare(tmp_path, "koehler", downloads.koehler_files(truths=11))
    assert [number for number, _ in open_prepared("koehler").truths(2, 1)] == list(range(1, 12))


def test_koehler_with_one_truth_a_scene(tmp_path):
    files = {name: contents for name, contents in downloads.koehler_files().items() if name.startswith("Blurry")}
    truths = {f"gt/GroundTruth{scene}.jpg": downloads.image(scene, suffix="JPEG") for scene in (1, 2)}
    _prepare(tmp_path, "koehler", files | truths)
    opened = open_prepared("koehler")
    assert opened.metadata["single_truth"] is True
    [(frame, image)] = opened.truths(2, 1)
    assert frame == 0
    assert image.read_bytes() == truths["gt/GroundTruth2.jpg"]


def test_images_without_sharp_ones(tmp_path):
    _prepare(tmp_path, "lai", downloads.lai_files(), variant="real")
    opened = open_prepared("lai")
    assert (opened.name, opened.kind, opened.pairs) == ("lai/real:test", "blurred", [])
    assert [(image.name, image.image.size) for image in opened.blurred] == [("x", (24, 40)), ("y", (30, 20))]
    assert opened.blurred[1].image.read_bytes() == downloads.lai_files()["real/y.jpg"]


def test_names_that_are_no_prepared_set_are_answered_with_what_is(tmp_path, gopro, data_dir):
    message = _refused(open_prepared, "gorpo:test")
    assert "did you mean gopro?" in message
    assert f"prepared in {data_dir}: gopro/linear" in message
    assert "hide is not prepared" in _refused(open_prepared, "hide:test")
    assert "prepare it with `drsn-jax prepare hide --source=PATH`" in _refused(open_prepared, "hide:test")
    assert "`drsn-jax prepare gopro --source=PATH --blur=gamma`" in _refused(open_prepared, "gopro/gamma")
    assert "`drsn-jax prepare realblur --source=PATH --variant=r|j`" in _refused(open_prepared, "realblur")
    assert "`drsn-jax prepare pairs --source=PATH --name=x`" in _refused(open_prepared, "deblurring_pairs/x")
    message = _refused(open_prepared, "gopro:valid")
    assert "has no split 'valid'; use one of gopro/linear:train, gopro/linear:validation, gopro/linear:test" in message
    assert "several splits" in _refused(open_prepared, "gopro")
    assert "neither a folder nor a data set" in _refused(find_pairs_or_prepared, "photos")
    prepare_dataset("gopro", source=gopro, variant="gamma", say_fn=len)
    assert "gopro/linear and gopro/gamma are prepared" in _refused(open_prepared, "gopro:test").replace(
        "gopro/gamma and gopro/linear", "gopro/linear and gopro/gamma"
    )


def test_a_folder_wins_over_a_name_and_a_split_over_the_default(tmp_path, gopro, monkeypatch):
    assert len(find_pairs_or_prepared("gopro", default_split="train")) == 4
    assert len(find_pairs_or_prepared("gopro:test", default_split="train")) == 2
    assert "no split 'all'" in _refused(find_pairs_or_prepared, "gopro", default_split="all")
    monkeypatch.chdir(tmp_path)
    downloads.write_folder(tmp_path / "gopro", downloads.images("blur/a.png", "sharp/a.png"))
    assert [pair.name for pair in find_pairs_or_prepared("gopro", default_split="train")] == ["a"]
    assert "does not exist" in _refused(find_pairs_or_prepared, tmp_path / "nowhere")


def test_blur_folder_chooses_between_linear_and_gamma(gopro):
    prepare_dataset("gopro", source=gopro, variant="gamma", say_fn=len)
    for blur_folder, config in (("blur", "linear"), ("blur_gamma", "gamma")):
        [first, *_] = find_pairs_or_prepared("gopro:test", blur_folder=blur_folder)
        assert str(first.blurred).startswith(f"gopro/{config}:test")
        assert first.blurred.read_bytes() == (gopro / f"test/T/{blur_folder}/000000.png").read_bytes()
    assert "use gopro/gamma" in _refused(find_pairs_or_prepared, "gopro/linear:test", blur_folder="blur_gamma")


@pytest.mark.parametrize("text", ["gopro", "gopro/linear", "gopro:test", "gopro/linear:test", "deblurring_pairs/My-set.2:train"])
def test_what_reads_as_a_prepared_set(text):
    assert is_prepared_spec(text)


@pytest.mark.parametrize(
    "text", ["", "/data/gopro", "./gopro", "../gopro", "~/gopro", "a/b/c", "GoPro", "gopro:", "gopro/", "C:\\data", "x y"]
)
def test_what_does_not(text):
    assert not is_prepared_spec(text)


def test_the_default_place_is_that_of_tfds(monkeypatch, tmp_path):
    assert default_data_dir() == tmp_path / "tfds"
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "tensorflow_datasets"


def test_metadata_that_was_damaged_or_is_somebody_elses(gopro, data_dir):
    metadata = data_dir / "gopro/linear/1.0.0/metadata.json"
    metadata.write_text("{")
    assert "is damaged" in _refused(open_prepared, "gopro:test")
    metadata.write_text("{}")
    assert "was not written by `drsn-jax prepare`" in _refused(open_prepared, "gopro:test")


def test_a_missing_package_is_named_and_not_taken_for_damage(gopro, monkeypatch):
    pairs = open_prepared("gopro:test").pairs
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_data_source", None)
    for message in (_refused(pairs[0].sharp.read_bytes), _refused(open_prepared, "gopro:test")):
        assert "pip install 'drsn-jax[data]'" in message
        assert "--overwrite" not in message


def test_koehlers_sharp_frames_are_no_blurred_images(tmp_path):
    _prepare(tmp_path, "koehler", downloads.koehler_files())
    assert "koehler has no split 'truth' of blurred images; use koehler" in _refused(open_prepared, "koehler:truth")
    assert open_prepared("koehler:blurred") == open_prepared("koehler")


def _hash(tmp_path, dataset, files, spec, place, **kwargs):
    source = downloads.write_folder(tmp_path / place / "source", files)
    prepare_dataset(dataset, source=source, say_fn=len, data_dir=tmp_path / place / "tfds", **kwargs)
    return open_prepared(spec, data_dir=tmp_path / place / "tfds").sha256


def test_the_hash_of_a_split_is_that_of_its_files(tmp_path):
    files = downloads.gopro_files()
    hashes = [_hash(tmp_path, "gopro", files, "gopro:test", place, variant="linear") for place in ("one", "two")]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 64
    assert hashes[0] != open_prepared("gopro:train", data_dir=tmp_path / "one/tfds").sha256
    other = files | {"test/T/sharp/000001.png": downloads.image("other")}
    assert _hash(tmp_path, "gopro", other, "gopro:test", "three", variant="linear") != hashes[0]
    assert (
        open_prepared("gopro:train", data_dir=tmp_path / "three/tfds").sha256
        == open_prepared("gopro:train", data_dir=tmp_path / "one/tfds").sha256
    )


@pytest.mark.parametrize("changed", ["BlurryImages/Blurry1_1.png", "Image1/Kernel1/GroundTruth1_1_1.png"])
def test_koehlers_hash_is_that_of_both_splits(tmp_path, changed):
    files = downloads.koehler_files()
    whole = _hash(tmp_path, "koehler", files, "koehler", "one")
    assert len(whole) == 64
    assert _hash(tmp_path, "koehler", files | {changed: downloads.image("other")}, "koehler", "two") != whole
