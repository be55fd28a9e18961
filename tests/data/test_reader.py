"""The reader of image files: the same pixels for restoring, evaluating, training and the page, whatever is wrong beside them."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from readers import TURNS, check_alike, check_refused, encoded, tiff_block, with_segments

from drsn_jax.data.images import png16
from drsn_jax.data.images.listing import list_images, name_images
from drsn_jax.data.images.reader import read_photo
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.making.clip_folders import read_clips
from drsn_jax.data.making.video import list_frames
from drsn_jax.data.synthesis.photos import find_photos
from drsn_jax.evaluation.benchmark import _find_images
from drsn_jax.restoration.jobs import plan_jobs
from drsn_jax.system.errors import BadImageError

pytest.importorskip("tensorflow", reason="tf.data reads images too: pip install 'drsn-jax[data]'")
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}
LOSSLESS = {"WEBP": {"lossless": True, "exact": True}}


def picture(mode="RGB", size=(13, 7), seed=0):
    channels = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, size, np.random.default_rng(seed).bytes(size[0] * size[1] * channels))


def turned(image, orientation):
    image = image.convert("RGB")
    return np.asarray(image.transpose(TURNS[orientation]) if orientation in TURNS else image)


# Orientation


def as_jpeg(image, block):
    return with_segments(encoded(image, "JPEG", quality=95), b"Exif\0\0" + block)


BLOCKS = {
    "whole": lambda n: tiff_block(n),
    "big-endian": lambda n: tiff_block(n, order=">"),
    "ends after its entry": lambda n: tiff_block(n, following=False),
    "entries are missing": lambda n: tiff_block(n, entries=9),
    "prefix doubled": lambda n: b"Exif\0\0" + tiff_block(n),
    "prefix three times": lambda n: b"Exif\0\0Exif\0\0" + tiff_block(n, following=False),
    "next directory far beyond": lambda n: tiff_block(n, following=False, extra=b"\xff\xff\xff\x7f"),
    "next directory is itself": lambda n: tiff_block(n, following=False, extra=struct.pack("<I", 8)),
    "a long number": lambda n: b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 4, 1, n, 0),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_no_damage_to_the_block_costs_the_orientation(kind, tmp_path):
    image = picture()
    for number, format in enumerate(["JPEG", "PNG", "WEBP"]):
        for orientation in (6, 1 + (number + len(kind)) % 8):
            block, path = BLOCKS[kind](orientation), tmp_path / f"a{orientation}{SUFFIXES[format]}"
            if format == "JPEG":
                path.write_bytes(as_jpeg(image, block))
                check_alike(path, tmp_path, turned(Image.open(path), orientation))
            else:
                image.save(path, format, exif=b"Exif\0\0" + block, **LOSSLESS.get(format, {}))
                check_alike(path, tmp_path, turned(image, orientation))
            with Image.open(next((tmp_path / "results").glob(f"a{orientation}.png"))) as restored:
                assert restored.getexif().get(0x112, 1) == 1, "the result stands upright by its own EXIF"


def test_the_photograph_of_the_issue(tmp_path):
    """EXIF that ends after its one entry: 48x64 upright."""
    tiff = b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x112, 3, 1, 6, 0)
    image = picture(size=(64, 48))
    image.save(tmp_path / "a.png", exif=tiff)
    assert check_alike(tmp_path / "a.png", tmp_path, turned(image, 6)).shape == (64, 48, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_all_orientations(format, orientation, tmp_path):
    path, image = tmp_path / f"a{SUFFIXES[format]}", picture("L", (16, 8))
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.new("RGB", (16, 8), (200, 10, 10)) if format == "JPEG" else image.convert("RGB")
    image.save(path, format, exif=exif, **LOSSLESS.get(format, {}))
    check_alike(path, tmp_path, turned(image, orientation), most=3 if format == "JPEG" else 0)


def test_orientation_in_two_segments_behind_the_pixels_in_xmp_and_in_text(tmp_path):
    image = picture(size=(16, 8))
    jpeg = encoded(image, "JPEG", quality=95)
    pixels = turned(Image.open(io.BytesIO(jpeg)), 6)
    block = tiff_block(6, extra=bytes(60_000))
    (tmp_path / "two.jpg").write_bytes(with_segments(jpeg, b"Exif\0\0" + block[:40_000], b"Exif\0\0" + block[40_000:]))
    check_alike(tmp_path / "two.jpg", tmp_path, pixels)
    packet = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>'
    (tmp_path / "xmp.jpg").write_bytes(with_segments(jpeg, packet))
    check_alike(tmp_path / "xmp.jpg", tmp_path, pixels)
    png = encoded(image, "PNG")
    end = png.index(b"IEND") - 4
    digits = (b"Exif\0\0" + tiff_block(6)).hex().encode()
    packed = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      32\n" + digits + b"\n")
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"
    for name, data in ((b"eXIf", tiff_block(6)), (b"zTXt", packed), (b"iTXt", xmp)):
        path = tmp_path / f"{name.decode()}.png"
        path.write_bytes(png[:end] + png16._chunk(name, data) + png[end:])
        check_alike(path, tmp_path, turned(image, 6))


@pytest.mark.parametrize("damage", [b"", b"MM\0*\xff\xff\xff\xff", b"no block at all", b"II*\0\x08\0\0\0\xff\xff"])
def test_a_block_that_cannot_be_kept_is_said(damage, tmp_path, capsys):
    image = picture()
    image.save(tmp_path / "a.png", exif=b"Exif\0\0" + damage)
    check_alike(tmp_path / "a.png", tmp_path, turned(image, 1))
    told = "its EXIF block is damaged and not kept" in capsys.readouterr().err
    assert told == (damage not in (b"", b"II*\0\x08\0\0\0\xff\xff")), "the last holds no entry: nothing is lost"


def test_tags_that_pillow_reads_and_cannot_write(tmp_path, capsys):
    """The fault of `ImageOps.exif_transpose`: sound photographs were damaged to training and evaluation."""
    entries = ((0x112, 3, 1, 6), (0x10F, 12, 1, 62), (0x8769, 4, 1, 50))
    block = b"II*\0" + struct.pack("<IH", 8, 3) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    block += struct.pack("<HHHIII", 1, 0x9286, 7, 4, 0x41424344, 0) + struct.pack("<d", 1.5)  # Make as DOUBLE
    image = picture(size=(16, 8))
    (tmp_path / "a.jpg").write_bytes(as_jpeg(image, block))
    check_alike(tmp_path / "a.jpg", tmp_path, turned(Image.open(tmp_path / "a.jpg"), 6))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x112] = 6
    tiff = encoded(image, "TIFF", tiffinfo=tags)
    (tmp_path / "a.tif").write_bytes(tiff)
    check_alike(tmp_path / "a.tif", tmp_path, turned(image, 6))


# Samples


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_white_is_zero_is_no_negative(bits, white_is_zero, compression, tmp_path):
    """Written as its negative with the tag that says so; of 8 bits and fewer Pillow makes the negative as it writes."""
    levels = np.random.default_rng(1).integers(0, 2**bits, (7, 13)).astype(np.uint16 if bits == 16 else np.uint8)
    stored = 65535 - levels if white_is_zero and bits == 16 else levels
    image = Image.fromarray(stored > 0) if bits == 1 else Image.fromarray(stored)
    image.save(tmp_path / "a.tif", compression=compression, tiffinfo={262: 0 if white_is_zero else 1})
    expected = np.rint(levels / (2**bits - 1) * 255).astype(np.uint8)
    check_alike(tmp_path / "a.tif", tmp_path, np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize(
    "options", [{}, {"byteorder": ">"}, {"compression": "zlib"}, {"compression": "zlib", "byteorder": ">"}, {"tile": (16, 16)}]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bit_tiff_by_another_writer(channels, options, tmp_path, rng):
    tifffile = pytest.importorskip("tifffile", reason="writes 16-bit colour; comes with scikit-image")
    samples = rng.integers(0, 65536, (20, 33, channels)).astype(np.uint16)
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    kind = "rgb" if channels > 1 else "minisblack"
    try:
        tifffile.imwrite(tmp_path / "a.tif", samples if channels > 1 else samples[..., 0], photometric=kind, **options, **extra)
    except (ImportError, ValueError) as error:
        pytest.skip(f"tifffile cannot write this here: {error}")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").samples, samples)
    colours = samples[..., :3] if channels > 1 else np.repeat(samples, 3, axis=-1)
    check_alike(tmp_path / "a.tif", tmp_path, np.rint(colours / 257).astype(np.uint8))


def test_other_kinds_of_samples_are_refused_as_what_they_are(tmp_path, rng):
    tifffile = pytest.importorskip("tifffile", reason="writes kinds that Pillow does not; comes with scikit-image")
    levels = rng.integers(0, 65536, (6, 8, 3)).astype(np.uint16)
    kinds = {
        "float": (levels / np.float32(65535), {"photometric": "rgb"}, ["3 channels of 32-bit floating-point"]),
        "greyalpha": (levels[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}, ["2 channels of 16-bit unsigned"]),
        "bigwhite": (levels[..., 0], {"photometric": "miniswhite", "byteorder": ">"}, ["1 channel of 16-bit unsigned", "big-endian"]),
        "planes": (np.moveaxis(levels, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}, ["16 bits a channel"]),
        "signed": (levels[..., 0].astype(np.int16), {"photometric": "minisblack"}, ["signed integer pixels"]),
        "greyfloat": (levels[..., 0] / np.float32(65535), {"photometric": "minisblack"}, ["floating-point pixels"]),
        "double": (levels[..., 0] / 65535, {"photometric": "minisblack"}, ["1 channel of 64-bit floating-point"]),
    }
    for name, (samples, options, words) in kinds.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", samples, **options)
        check_refused(tmp_path / f"{name}.tif", tmp_path, *words, "save it as PNG")


def test_a_tiff_whose_second_page_is_a_thumbnail_is_a_photograph(tmp_path):
    image, small = picture(size=(40, 24)), picture(size=(20, 12))
    image.save(tmp_path / "a.tif", save_all=True, append_images=[small, small.resize((10, 6))])
    check_alike(tmp_path / "a.tif", tmp_path, np.asarray(image))
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[small, picture(size=(30, 24))])
    check_refused(tmp_path / "pages.tif", tmp_path, "3 frames or pages")


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_photographs_of_phones(suffix, tmp_path):
    if suffix == ".heic":
        pytest.importorskip("pillow_heif", reason="HEIC: pip install 'drsn-jax[heif]'").register_heif_opener()
    elif not Image.registered_extensions().get(suffix):
        pytest.skip("this Pillow was built without AVIF")
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "Phone"
    flat = Image.new("RGB", (32, 16), (200, 90, 30))
    flat.paste((20, 90, 200), (0, 0, 16, 16))
    flat.save(tmp_path / f"a{suffix}", exif=exif.tobytes(), quality=95)
    check_alike(tmp_path / f"a{suffix}", tmp_path, turned(flat, 6), most=60)
    [(_, target)] = plan_jobs([tmp_path / f"a{suffix}"]).jobs
    assert target == tmp_path / "a.restored.jpg"


# Property


@st.composite
def files(draw):
    """Return (bytes, suffix, the upright pixels as written, or None if the format loses some)."""
    size = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    format = draw(st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "PNG16", "TIFF16"]))
    modes = {
        "JPEG": ["L", "RGB", "CMYK"], "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"], "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"],
        "WEBP": ["RGB", "RGBA"], "BMP": ["1", "L", "P", "RGB"], "GIF": ["L", "P"], "PPM": ["1", "L", "RGB"],
        "PNG16": [1, 2, 3, 4], "TIFF16": ["I;16"],
    }  # fmt: skip
    mode, seed = draw(st.sampled_from(modes[format])), draw(st.integers(0, 99))
    orientation = draw(st.integers(1, 8)) if format not in ("BMP", "GIF", "PPM") else 1
    block = BLOCKS[draw(st.sampled_from(sorted(BLOCKS)))](orientation)
    if draw(st.integers(0, 4)) == 0:
        orientation, block = 1, draw(st.binary(max_size=40).filter(lambda data: b"\x12\x01" not in data and b"\x01\x12" not in data))
    if format == "PNG16":
        samples = np.random.default_rng(seed).integers(0, 65536, (size[1], size[0], mode)).astype(np.uint16)
        colours = np.rint(np.repeat(samples[..., :1], 3, axis=-1) / 257 if mode < 3 else samples[..., :3] / 257).astype(np.uint8)
        return png16.encode(samples, exif=block), ".png", turned(Image.fromarray(colours), orientation)
    if mode == "I;16":
        levels = np.random.default_rng(seed).integers(0, 65536, size[::-1]).astype(np.uint16)
        colours = np.repeat(np.rint(levels / 257).astype(np.uint8)[..., None], 3, axis=-1)
        data = encoded(
            Image.fromarray(levels), "TIFF", tiffinfo={0x112: orientation}, compression=draw(st.sampled_from(["raw", "tiff_lzw"]))
        )
        return data, ".tif", turned(Image.fromarray(colours), orientation)
    base = picture("L" if mode == "1" else "RGB" if mode == "P" else mode, size, seed)
    image = base.convert("1") if mode == "1" else base.quantize(17) if mode == "P" else base
    if format == "JPEG":
        data = as_jpeg(image, block)
    elif format == "TIFF":
        data = encoded(image, format, tiffinfo={0x112: orientation}, compression=draw(st.sampled_from(["raw", "tiff_lzw", "packbits"])))
    else:
        data = encoded(image, format, **LOSSLESS.get(format, {}), **({"exif": b"Exif\0\0" + block} if format in ("PNG", "WEBP") else {}))
    exact = format != "JPEG" and mode != "CMYK"
    suffix = {"BMP": ".bmp", "GIF": ".gif", "PPM": ".ppm"}.get(format) or SUFFIXES[format]
    return data, suffix, turned(image.convert("RGBA") if mode in ("LA", "RGBA") else image, orientation) if exact else None


@settings(max_examples=120)
@given(file=files())
def test_every_verb_sees_the_same_pixels(file, tmp_path_factory):
    data, suffix, expected = file
    folder = tmp_path_factory.mktemp("reader")
    (folder / f"a{suffix}").write_bytes(data)
    check_alike(folder / f"a{suffix}", folder, expected)


# Folders


@pytest.fixture
def folder(tmp_path):
    """Two photographs among what systems and people leave beside them."""
    top = tmp_path / "in"
    kept = ["1.png", "deep/2.JPG"]
    hidden = [
        ".3.png",
        "._1.png",
        ".Trash/4.png",
        "@eaDir/5.jpg",
        "__MACOSX/6.png",
        "lost+found/7.png",
        "$RECYCLE.BIN/8.png",
        "#recycle/9.png",
    ]
    for name in kept + hidden:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        picture(size=(16, 16)).save(top / name)
    (top / "folder10.png").mkdir()
    (top / "@eaDir" / "1.png").mkdir()
    (top / "notes11.txt").write_text("no image")
    os.mkfifo(top / "pipe12.png")
    return top


def test_images_of_a_folder_are_the_same_for_all(folder):
    kept = [folder / "1.png", folder / "deep" / "2.JPG"]
    assert list_images(folder) == kept
    assert list_images(folder, deep=False) == kept[:1] == list_frames(folder)
    assert name_images(folder) == {"1": kept[0], "deep/2": kept[1]}
    assert list(find_photos(folder).values()) == kept
    assert sorted(_find_images(folder).values()) == kept
    assert [source for source, _ in plan_jobs([folder], output=folder / "out").jobs] == kept
    clip, _ = read_clips([folder], crop_size=8)
    assert clip.frames.pixels.shape == (16, 16 * 3)


def test_links_that_lead_nowhere_are_told_and_links_to_folders_are_not_followed(folder, tmp_path):
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("elsewhere.png")
    (folder / "self").symlink_to(folder)
    assert [path.name for path in list_images(folder)] == ["1.png", "2.JPG", "gone.png", "loop.png"]
    for name in ("loop.png", "gone.png"):
        results = check_link(folder / name, tmp_path)
        assert results == {"is a broken link; repair or remove it."}


def check_link(path, folder):
    messages = set()
    for read in (read_photo, read_rgb):
        with pytest.raises(BadImageError) as error:
            read(path)
        messages.add(str(error.value).removeprefix(f"'{path}' "))
    return messages
