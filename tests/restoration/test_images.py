"""People's image files: every kind comes back as it was, and every bad one is one clear line."""

import errno
import io
import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import IFD

from drsn_jax.data.images import png16
from drsn_jax.data.images.exif import upright
from drsn_jax.data.images.reader import read_photo
from drsn_jax.restoration.files import images
from drsn_jax.restoration.files.images import check_target, write_photo
from drsn_jax.system.errors import InputError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(mode, size=(23, 17), seed=0, dtype=np.uint8):
    channels = len(Image.new(mode, (1, 1)).getbands())
    samples = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (size[1], size[0], channels)).astype(dtype)
    return Image.frombytes(mode, size, samples.tobytes())


def round_trip(path, target=None, change=0.0, **options):
    photo = read_photo(path)
    assert photo.rgb.dtype == np.float32
    assert photo.rgb.min() >= 0
    assert photo.rgb.max() <= 1
    target = target or path.with_name(f"restored{path.suffix}")
    write_photo(photo, photo.rgb + np.float32(change), target, **options)
    return target


def pixels(path, mode=None):
    with Image.open(path) as image:
        return np.asarray(image.convert(mode) if mode else image)


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("L", ".png", {}), ("LA", ".png", {}), ("RGB", ".png", {}), ("RGBA", ".png", {}), ("I;16", ".png", {}),
        ("L", ".tif", {}), ("LA", ".tif", {}), ("RGB", ".tif", {"compression": "tiff_lzw"}), ("RGBA", ".tiff", {}),
        ("CMYK", ".tif", {}), ("I;16", ".tif", {}), ("RGB", ".tif", {"compression": "packbits"}),
        ("L", ".bmp", {}), ("RGB", ".bmp", {}), ("L", ".pgm", {}), ("RGB", ".ppm", {}), ("L", ".gif", {}),
        ("RGB", ".webp", {"lossless": True}), ("RGBA", ".webp", {"lossless": True, "exact": True}),
    ],
)  # fmt: skip
def test_lossless_kinds_come_back_exactly(tmp_path, mode, suffix, options):
    path = tmp_path / f"image{suffix}"
    noise(mode, dtype=np.uint16 if mode == "I;16" else np.uint8).save(path, **options)
    target = round_trip(path)
    with Image.open(path) as before, Image.open(target) as after:
        assert (after.mode, after.format, after.size) == (before.mode, before.format, before.size)
        assert after.info.get("compression") == before.info.get("compression")
    mode = "RGB" if suffix == ".gif" else None  # whose indices may be numbered anew
    np.testing.assert_array_equal(pixels(target, mode), pixels(path, mode))


def test_restored_pixels_are_what_is_written(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGBA", (5, 4), (100, 110, 120, 7)).save(path)
    assert pixels(round_trip(path, change=10.4 / 255))[2, 3].tolist() == [110, 120, 130, 7]


def test_bilevel_becomes_grey(tmp_path):
    path = tmp_path / "image.png"
    noise("L").convert("1").save(path)
    target = round_trip(path)
    with Image.open(target) as image:
        assert image.mode == "L"
    np.testing.assert_array_equal(pixels(target), pixels(path, "L"))


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palettes(tmp_path, suffix, transparent):
    path = tmp_path / f"image{suffix}"
    noise("RGB", (13, 11)).quantize(200).save(path, **({"transparency": 3} if transparent else {}))
    mode = "RGBA" if transparent else "RGB"
    target = round_trip(path)
    with Image.open(target) as image:
        assert image.mode == (mode if suffix == ".png" else "P")
    before, after = pixels(path, mode), pixels(target, mode)
    seen = before[..., 3] > 0 if transparent else np.ones(before.shape[:2], bool)
    assert seen.all() != transparent
    np.testing.assert_array_equal(after[seen], before[seen])
    if transparent:
        np.testing.assert_array_equal(after[..., 3], before[..., 3])


@pytest.mark.parametrize(("mode", "transparency"), [("L", 17), ("RGB", (1, 2, 3)), ("1", 0)])
def test_transparent_colour_becomes_alpha(tmp_path, mode, transparency):
    path = tmp_path / "image.png"
    image = noise("L").convert("1") if mode == "1" else noise(mode)
    image.putpixel((4, 5), transparency)
    image.save(path, transparency=transparency)
    target = round_trip(path)
    after = pixels(target, "RGBA")
    assert after[5, 4, 3] == 0
    np.testing.assert_array_equal(after, pixels(path, "RGBA"))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_stays_close_in_444(tmp_path, mode, photograph):
    path = tmp_path / "photo.jpg"
    Image.fromarray(photograph[:96, :160]).convert(mode).save(path, quality=90)
    target = round_trip(path)
    with Image.open(target) as image:
        assert (image.format, image.mode) == ("JPEG", mode)
        assert all(layer[1:3] == (1, 1) for layer in image.layer)
    error = pixels(target, "RGB").astype(float) - pixels(path, "RGB")
    assert np.sqrt((error**2).mean()) < 2.5


def test_black_ink_survives_and_lightening_shows(tmp_path):
    path = tmp_path / "image.tif"
    Image.new("CMYK", (3, 3), (10, 20, 30, 255)).save(path)  # all black whatever the other inks are, which rgb cannot tell
    assert pixels(round_trip(path))[1, 1].tolist() == [10, 20, 30, 255]
    Image.new("CMYK", (3, 3), (10, 20, 30, 200)).save(path)
    assert pixels(round_trip(path, change=0.1, overwrite=True)).shape == (3, 3, 4)
    lighter = pixels(tmp_path / "restored.tif", "RGB").astype(int) - pixels(path, "RGB")
    assert np.abs(lighter - 25.5).max() < 2


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (41, 29)])
def test_sixteen_bit_png_is_exact(tmp_path, rng, channels, size):
    path = tmp_path / "deep.png"
    samples = rng.integers(0, 65536, (size[1], size[0], channels)).astype(np.uint16)
    path.write_bytes(png16.encode(samples, icc_profile=SRGB, dpi=(300.0, 300.0), chunks=((b"gAMA", struct.pack(">I", 50000)),)))
    np.testing.assert_array_equal(deep_samples(path), samples)
    photo = read_photo(path)
    assert photo.bit_depth == 16
    np.testing.assert_allclose(photo.rgb[..., 0], samples[..., 0] / 65535, atol=1e-7)
    target = round_trip(path)
    np.testing.assert_array_equal(deep_samples(target), samples)
    again = read_photo(target).metadata
    assert again.icc_profile == SRGB
    assert again.dpi == pytest.approx((300, 300), rel=1e-4)
    assert again.colour_chunks == photo.metadata.colour_chunks != ()


def deep_samples(path):
    with path.open("rb") as stream:
        return png16.decode(stream)


def interlaced_png(samples):
    """Encode a 16-bit RGB PNG in Adam7 order (PNG specification, section 8.1), unfiltered."""
    height, width = samples.shape[:2]
    starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in starts]
    data = b"".join(b"\x00" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(d)) + c + d + struct.pack(">I", zlib.crc32(c + d)) for c, d in chunks)


def test_sixteen_bit_interlaced(tmp_path, rng):
    samples = rng.integers(0, 65536, (19, 21, 3)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(interlaced_png(samples))
    np.testing.assert_array_equal(deep_samples(tmp_path / "deep.png"), samples)


def test_sixteen_bit_png_against_another_decoder(tmp_path, rng):
    reader = pytest.importorskip("tensorflow", reason="an independent 16-bit PNG decoder: TensorFlow's").io
    samples = rng.integers(0, 65536, (19, 21, 3)).astype(np.uint16)
    np.testing.assert_array_equal(reader.decode_png(png16.encode(samples), dtype="uint16"), samples)


def test_changed_pillow_is_refused_not_misread(tmp_path, rng, monkeypatch):
    path = tmp_path / "deep.png"
    path.write_bytes(png16.encode(rng.integers(0, 65536, (4, 4, 3)).astype(np.uint16)))
    monkeypatch.setattr(png16, "_RAWMODES", {})
    with pytest.raises(InputError, match="16 bits a channel"):
        read_photo(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_pillows(orientation):
    image = noise("RGB")
    image.getexif()[0x112] = orientation
    np.testing.assert_array_equal(upright(np.asarray(image), orientation), np.asarray(ImageOps.exif_transpose(image)))


def exif_block(orientation):
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = orientation, "Maker"
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 30.5)}
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0x927C: b"maker note"}
    return exif.tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_orientation_is_applied_and_the_rest_kept(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    image = noise("RGB", (24, 16))
    image.save(path, exif=exif_block(6), icc_profile=SRGB, dpi=(240, 240), **({"lossless": True} if suffix == ".webp" else {}))
    target = round_trip(path)
    with Image.open(target) as after:
        assert after.size == (16, 24)
        exif = after.getexif()
        assert exif.get(0x112, 1) == 1
        assert exif[0x10F] == "Maker"
        assert exif.get_ifd(0x8825) == {1: "N", 2: (48.0, 8.0, 30.5)}
        assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert after.info["icc_profile"] == SRGB
        if suffix != ".webp":  # which has no field for it
            assert after.info["dpi"] == pytest.approx((240, 240), rel=1e-3)
        if suffix != ".jpg":
            np.testing.assert_array_equal(np.asarray(after), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("orientation", [1, 8])
def test_thumbnails_are_dropped(tmp_path, orientation):
    """They show the picture as it was, and may lie on their side."""
    preview = io.BytesIO()
    noise("RGB", (8, 8)).save(preview, "JPEG")
    entries = [(0x112, 3, 1, orientation << 16)], [(0x103, 3, 1, 6 << 16), (0x201, 4, 1, 68), (0x202, 4, 1, len(preview.getvalue()))]
    first, second = (struct.pack(">H", len(ifd)) + b"".join(struct.pack(">HHII", *entry) for entry in ifd) for ifd in entries)
    block = b"Exif\0\0MM\0*" + struct.pack(">I", 8) + first + struct.pack(">I", 26) + second + struct.pack(">I", 0)
    assert len(block) == 6 + 68
    path = tmp_path / "image.jpg"
    noise("RGB", (24, 16)).save(path, exif=block + preview.getvalue())
    assert read_photo(path).rgb.shape[:2] == ((16, 24) if orientation == 1 else (24, 16))
    with Image.open(round_trip(path)) as after:
        assert after.getexif()[0x112] == 1
        assert 0x201 not in after.getexif().get_ifd(IFD.IFD1)
        assert preview.getvalue()[:40] not in after.info["exif"]


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    path = tmp_path / "image.png"
    noise("RGB").save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    target = round_trip(path)
    np.testing.assert_array_equal(pixels(target), pixels(path))


def test_multi_picture_jpeg_is_its_photograph(tmp_path):
    path = tmp_path / "phone.jpg"
    photograph = Image.new("RGB", (32, 24), (10, 200, 30))
    photograph.save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    with Image.open(path) as before:
        assert before.format == "MPO"
    with Image.open(round_trip(path)) as after:
        assert (after.format, after.size) == ("JPEG", (32, 24))


def test_format_follows_the_suffix_unless_it_is_the_inputs_own(tmp_path):
    path = tmp_path / "really_png.jpg"
    noise("RGBA").save(path, "PNG")
    np.testing.assert_array_equal(pixels(round_trip(path)), pixels(path))
    for suffix, format in [(".tif", "TIFF"), (".webp", "WEBP"), (".PNG", "PNG")]:
        with Image.open(round_trip(path, tmp_path / f"other{suffix}")) as image:
            assert (image.format, image.mode) == (format, "RGBA")
            np.testing.assert_array_equal(np.asarray(image), pixels(path))


def test_profile_of_other_channels_is_left_out(tmp_path):
    path = tmp_path / "image.tif"
    noise("CMYK").save(path, icc_profile=b"a profile of inks" * 20)
    assert read_photo(path).metadata.icc_profile
    with Image.open(round_trip(path, tmp_path / "image.png")) as image:
        assert (image.mode, image.info.get("icc_profile")) == ("RGB", None)
    with Image.open(round_trip(path)) as image:
        assert image.info["icc_profile"] == b"a profile of inks" * 20


def test_transparency_is_dropped_only_if_all_is_opaque(tmp_path):
    path = tmp_path / "image.png"
    image = noise("RGBA")
    image.putalpha(255)
    image.save(path)
    round_trip(path, tmp_path / "opaque.jpg")
    image.putpixel((0, 0), (0, 0, 0, 254))
    image.save(path)
    with pytest.raises(InputError, match=r"transparency.*PNG"):
        round_trip(path, tmp_path / "lost.jpg")
    assert not (tmp_path / "lost.jpg").exists()


def test_deep_becomes_eight_bits_where_the_format_has_no_more(tmp_path, rng):
    path = tmp_path / "deep.png"
    samples = rng.integers(0, 65536, (9, 8, 4)).astype(np.uint16)
    path.write_bytes(png16.encode(samples))
    np.testing.assert_array_equal(pixels(round_trip(path, tmp_path / "flat.tif")), np.rint(samples / 257))


def _bad_files(folder: Path) -> dict[str, tuple[bytes | None, list[str]]]:
    def saved(image, format, **options):
        file = io.BytesIO()
        image.save(file, format, **options)
        return file.getvalue()

    large = noise("RGB", (64, 64))
    frames = {"save_all": True, "append_images": [noise("RGB", (64, 64), seed=1)]}
    deep_tiff = saved(noise("RGB", (4, 4)), "TIFF").replace(struct.pack("<HHH", 8, 8, 8), struct.pack("<HHH", 16, 16, 16))
    return {
        "missing.png": (None, ["does not exist"]),
        "empty.png": (b"", ["is empty (0 bytes)"]),
        "text.png": (b"this is no image\n" * 10, ["not an image", "JPEG, PNG"]),
        "phone.heic": (b"\0\0\0\x18ftypheic" + b"\0" * 100, ["HEIC"]),
        "moving.gif": (saved(large, "GIF", **frames), ["2 frames or pages"]),
        "moving.png": (saved(large, "PNG", **frames), ["2 frames or pages"]),
        "moving.webp": (saved(large, "WEBP", **frames), ["2 frames or pages"]),
        "pages.tif": (saved(large, "TIFF", **frames), ["2 frames or pages"]),
        "float.tif": (saved(Image.new("F", (4, 4)), "TIFF"), ["floating-point"]),
        "wide.tif": (saved(Image.new("I", (4, 4)), "TIFF"), ["32-bit"]),
        "deep.tif": (deep_tiff, ["damaged or cut short"]),
        "deep.ppm": (b"P6 1 1 65535\n" + bytes(6), ["16 bits a channel"]),
        "lab.tif": (saved(Image.new("LAB", (4, 4)), "TIFF"), ["mode LAB"]),
        **{
            f"cut.{format.lower()}": (saved(large, format)[: int(len(saved(large, format)) * 0.6)], ["damaged or cut short"])
            for format in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "PPM", "GIF")
        },
        "cut16.png": (
            png16.encode(np.full((64, 64, 3), 9, np.uint16) + np.arange(64, dtype=np.uint16)[:, None])[:80],
            ["damaged or cut short"],
        ),
    }


@pytest.mark.parametrize("name", list(_bad_files(Path())))
def test_bad_files_are_one_clear_line(tmp_path, name):
    data, words = _bad_files(tmp_path)[name]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        read_photo(tmp_path / name)
    assert all(word in str(error.value) for word in [name, *words]), error.value
    assert "\n" not in str(error.value)


def test_folders_pipes_and_odd_names(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        read_photo(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="not a regular file"):
        read_photo(tmp_path / "pipe.png")
    with pytest.raises(InputError) as error:
        read_photo(tmp_path / "line\nbreak.png")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be"):
        read_photo(tmp_path / ("n" * 300 + ".png"))
    odd = tmp_path / "ünïcode  -x '\"\n.png"
    noise("RGB").save(odd)
    np.testing.assert_array_equal(pixels(round_trip(odd, odd.with_name("n" * 251 + ".png"))), pixels(odd))


def test_every_truncation_is_noticed(tmp_path, photograph):
    file = io.BytesIO()
    Image.fromarray(photograph[:64, :64]).save(file, "JPEG", exif=exif_block(6))
    for length in range(1, len(file.getvalue()) - 40, 97):
        (tmp_path / "cut.jpg").write_bytes(file.getvalue()[:length])
        with pytest.raises(InputError):
            read_photo(tmp_path / "cut.jpg")


def test_bombs_are_named_with_their_size(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    noise("RGB", (60, 50)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"too large: .*3000 pixels"):
        read_photo(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # between the limit and twice of it: read, and no warning
    assert read_photo(path).rgb.shape == (50, 60, 3)


def test_existing_files_are_kept(tmp_path):
    path, target = tmp_path / "image.png", tmp_path / "taken.png"
    noise("RGB").save(path)
    target.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"already exists.*--overwrite"):
        round_trip(path, target)
    assert target.read_bytes() == b"mine"
    round_trip(path, target, overwrite=True)
    np.testing.assert_array_equal(pixels(target), pixels(path))
    with pytest.raises(InputError, match="is a folder"):
        check_target(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="is a file, not a folder"):
        check_target(path / "inside.png", overwrite=False)
    with pytest.raises(InputError, match="names no format"):
        round_trip(path, tmp_path / "image.xyz")


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, hard_links):
    path, target = tmp_path / "image.png", tmp_path / "late.png"
    noise("RGB").save(path)

    def check_then_lose_the_race(path, *, overwrite):
        target.write_bytes(b"theirs")

    def no_links(source, link):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(images.os, "link", no_links)
        round_trip(path, tmp_path / "free.png")
        np.testing.assert_array_equal(pixels(tmp_path / "free.png"), pixels(path))
    monkeypatch.setattr(images, "check_target", check_then_lose_the_race)
    with pytest.raises(InputError, match="already exists"):
        round_trip(path, target)
    assert target.read_bytes() == b"theirs"
    assert not list(tmp_path.glob(".drsn-*"))


def test_new_files_have_the_usual_permissions(tmp_path):
    path = tmp_path / "image.png"
    noise("RGB").save(path)
    assert round_trip(path).stat().st_mode == path.stat().st_mode


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    noise("RGB").save(path)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(images.os, "link", interrupted)
    monkeypatch.setattr(images.os, "replace", interrupted)
    for overwrite in (False, True):
        with pytest.raises(KeyboardInterrupt):
            round_trip(path, tmp_path / "restored.png", overwrite=overwrite)
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]


@pytest.fixture
def mounted(tmp_path):
    """Mount small tmpfs file systems with the given options, and unmount them afterwards."""
    folders = []

    def mount(options):
        folder = tmp_path / f"mount{len(folders)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting needs more rights than this test has: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_nothing(tmp_path, mounted):
    folder = mounted("size=64k")
    noise("RGB", (400, 300)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match=r"No space left on device.*free some space") as error:
        round_trip(tmp_path / "image.png", folder / "restored.png")
    assert "\n" not in str(error.value)
    assert not list(folder.iterdir())


def test_read_only_folder_is_noticed_beforehand(mounted):
    folder = mounted("ro,size=64k")
    with pytest.raises(InputError, match="no permission to write"):
        check_target(folder / "sub" / "restored.png", overwrite=False)


def test_refusal_by_the_system_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    noise("RGB").save(path)
    monkeypatch.setattr(images.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no permission to write"):
        round_trip(path)


@pytest.fixture
def nobody():
    """Drop root's rights for a while, because root may read and write everything."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_unreadable_file_and_unwritable_folder(tmp_path, request):
    path, folder = tmp_path / "secret.png", tmp_path / "closed"
    noise("RGB").save(path)
    photo = read_photo(path)
    folder.mkdir()
    path.chmod(0)
    folder.chmod(0o500)
    request.getfixturevalue("nobody")
    with pytest.raises(InputError, match="check the permissions"):
        read_photo(path)
    with pytest.raises(InputError, match=r"Permission denied|no permission"):
        write_photo(photo, photo.rgb, folder / "restored.png")
