"""What files say beside their pixels: kept where the target holds it, said where it does not, and known before the network runs."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, IptcImagePlugin, PngImagePlugin
from PIL.ExifTags import Base
from readers import encoded, tiff_block, with_segments

from drsn_jax.data.images import png16
from drsn_jax.restoration.restore import restore_files
from drsn_jax.serving.photographs import restore_upload
from drsn_jax.system.errors import InputError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="a"/></x:xmpmeta>'
UPRIGHT = XMP.replace(b'"6"', b'"1"')
PICTURE = Image.new("RGB", (16, 8), (90, 30, 200))


def never(image):
    raise AssertionError("the network was asked although the result cannot be kept")


def restored(path, output=None, *, restore_fn=lambda image: image, **options):
    """Return the result as Pillow opens it."""
    report = restore_files([path], output=output, restore_fn=restore_fn, **options)
    assert not report.failed, report.failed
    [target] = report.restored
    image = Image.open(target)
    image.load()
    return image


def refusal(path, output=None, **options):
    [(_, message)] = restore_files([path], output=output, restore_fn=never, **options).failed
    return message


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".png"])
def test_xmp_and_profile_are_kept_and_xmp_stands_upright(suffix, tmp_path):
    for source in (".jpg", ".webp", ".png"):
        path, options = tmp_path / f"a{source}", {"icc_profile": SRGB}
        if source == ".png":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        PICTURE.save(path, **options, **({"xmp": XMP} if source != ".png" else {}))
        image = restored(path, tmp_path / f"b{suffix}", overwrite=True)
        held = image.info["XML:com.adobe.xmp"].encode() if suffix == ".png" else image.info["xmp"]
        assert held == UPRIGHT
        assert image.size == (8, 16), "turned, as the packet said"
        assert image.info["icc_profile"] == SRGB


@pytest.mark.parametrize("deep", [False, True])
def test_text_of_png_is_kept_byte_for_byte(deep, tmp_path):
    chunks = [
        (b"tEXt", b"Author\0somebody"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"packed" * 9)),
        (b"iTXt", b"Title\0\0\0de\0Titel\0" + "ä".encode()),
        (b"tEXt", b"photoshop\0by whose name Pillow has a table for JPEG"),
    ]
    samples = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    data = png16.encode(samples, chunks=chunks) if deep else encoded(PICTURE, "PNG")
    if not deep:
        data = data[:33] + b"".join(png16._chunk(*chunk) for chunk in chunks) + data[33:]
    (tmp_path / "a.png").write_bytes(data)
    restored(tmp_path / "a.png", tmp_path / "b.png")
    with (tmp_path / "b.png").open("rb") as stream:
        assert png16.read_chunks(stream)[1] == chunks


def test_comments_and_what_has_no_room_for_them(tmp_path, capsys):
    PICTURE.save(tmp_path / "a.jpg", comment=b"by hand", xmp=XMP)
    assert restored(tmp_path / "a.jpg", tmp_path / "b.jpg").info["comment"] == b"by hand"
    assert restored(tmp_path / "a.jpg", tmp_path / "b.png").text["Comment"] == "by hand"
    assert restored(tmp_path / "a.jpg", tmp_path / "b.gif").info["comment"] == b"by hand"
    assert "its XMP is not kept: GIF cannot hold it" in capsys.readouterr().err
    assert "comment" not in restored(tmp_path / "a.jpg", tmp_path / "b.webp").info
    told = capsys.readouterr().err
    assert told.endswith(" s; its comment is not kept: WEBP cannot hold it\n")
    assert told.count("\n") == 1


def test_xmp_of_parts_that_are_not_restored_is_left_out(tmp_path, capsys):
    """A reader would look for the gain map or the film that it tells of."""
    PICTURE.save(tmp_path / "a.jpg", xmp=XMP.replace(b"dc:title", b"hdrgm:Version"))
    image = restored(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert "xmp" not in image.info
    assert image.size == (8, 16)
    assert "its XMP describes parts that are not restored (hdrgm), so it is not kept" in capsys.readouterr().err


IPTC = b"\x1c\x02\x50\x00\x09Ansel\0abc" + b"\x1c\x02\x78\x00\x07caption"  # by-line and caption: odd in length


def with_iptc(record, *, length=None):
    """Make a JPEG file with the record as Photoshop writes it, between resources that are not kept. `length` is the declared one."""
    resources = b"8BIM\x04\x0c\0\0\0\0\0\3abc\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record) if length is None else length)
    content = b"Photoshop 3.0\0" + resources + record + b"\0" * (len(record) % 2) + b"8BIM\x04\x25\0\0\0\0\0\1x\0"
    jpeg = encoded(PICTURE, "JPEG", xmp=UPRIGHT)
    return jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def test_iptc_is_kept_where_it_has_a_place(tmp_path, capfd):
    (tmp_path / "a.jpg").write_bytes(with_iptc(IPTC))
    for path, target in (("a.jpg", "b.jpg"), ("b.jpg", "c.tif"), ("c.tif", "d.tif"), ("d.tif", "e.jpg")):
        image = restored(tmp_path / path, tmp_path / target)
        assert IptcImagePlugin.getiptcinfo(image) == {(2, 0x50): b"Ansel\0abc", (2, 0x78): b"caption"}
        assert image.info["xmp"] == UPRIGHT
        if target.endswith("jpg"):
            assert image.info["photoshop"] == {0x0404: IPTC}, "neither the thumbnail nor the digest of the blurred picture"
    assert "not kept" not in capfd.readouterr().err
    PICTURE.save(tmp_path / "f.tif", compression="tiff_lzw", tiffinfo={33723: IPTC})
    assert restored(tmp_path / "f.tif", tmp_path / "g.tif").info["compression"] == "tiff_lzw"
    assert IptcImagePlugin.getiptcinfo(Image.open(tmp_path / "g.tif"))[2, 0x78] == b"caption"
    for suffix in ("png", "webp", "gif"):
        restored(tmp_path / "a.jpg", tmp_path / f"h.{suffix}")
        assert f"its IPTC record is not kept: {suffix.upper()} cannot hold it" in capfd.readouterr().err


def test_iptc_beside_exif_of_many_segments(tmp_path):
    block = long_block(100_000)
    parts = [b"Exif\0\0" + block[at : at + 65_000] for at in range(0, len(block), 65_000)]
    (tmp_path / "a.jpg").write_bytes(with_segments(with_iptc(IPTC), *parts))
    image = restored(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert (len(image.info["exif"]), image.info["photoshop"]) == (len(block) + 6, {0x0404: IPTC})


def test_iptc_that_is_damaged_or_too_long_is_said(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(with_iptc(b"nonsense"))
    assert "photoshop" not in restored(tmp_path / "a.jpg", tmp_path / "b.jpg").info
    assert capsys.readouterr().err.endswith("; its IPTC record is damaged and not kept\n")
    (tmp_path / "cut.jpg").write_bytes(with_iptc(IPTC, length=10_000))
    assert restored(tmp_path / "cut.jpg", tmp_path / "c.jpg").info["photoshop"][0x0404].startswith(IPTC)
    PICTURE.save(tmp_path / "long.tif", tiffinfo={33723: IPTC * 5_000})
    assert "photoshop" not in restored(tmp_path / "long.tif", tmp_path / "d.jpg").info
    assert "its IPTC record is not kept: JPEG cannot hold it" in capsys.readouterr().err


def long_block(length):
    """EXIF of a camera with a long maker note."""
    note = b"n" * length
    block = b"II*\0" + struct.pack("<IHHHIHHHHIII", 8, 2, 0x112, 3, 1, 6, 0, 0x927C, 7, length, 38, 0)
    return block + note


@pytest.mark.parametrize("length", [60_000, 65_500, 200_000])
def test_exif_of_any_length_stays_in_jpeg(length, tmp_path):
    """Over several segments where one is too short, as cameras write it."""
    block = long_block(length)
    parts = [b"Exif\0\0" + block[at : at + 65_000] for at in range(0, len(block), 65_000)]
    (tmp_path / "a.jpg").write_bytes(with_segments(encoded(PICTURE, "JPEG", comment=b"still here", icc_profile=SRGB), *parts))
    image = restored(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert image.size == (8, 16)
    assert image.getexif()[0x112] == 1
    assert image.info["exif"] == b"Exif\0\0" + block.replace(struct.pack("<HHIH", 0x112, 3, 1, 6), struct.pack("<HHIH", 0x112, 3, 1, 1))
    assert (image.info["comment"], image.info["icc_profile"]) == (b"still here", SRGB)


def test_a_long_maker_note_from_tiff_to_jpeg_and_back(tmp_path):
    exif = Image.Exif()
    exif[Base.Make], exif[0x8769] = "Maker", {0x927C: b"n" * 100_000}
    PICTURE.save(tmp_path / "a.tif", exif=exif.tobytes())
    for path, target in (("a.tif", "b.jpg"), ("b.jpg", "c.tif"), ("c.tif", "d.tif")):
        image = restored(tmp_path / path, tmp_path / target)
        assert image.getexif()[Base.Make] == "Maker"
        assert image.getexif().get_ifd(0x8769)[0x927C] == b"n" * 100_000


def test_a_tiff_holds_tags_places_and_xmp_at_once(tmp_path, capfd):
    exif = Image.Exif()
    exif[Base.Make], exif[0x8825], exif[0x8769] = "Maker", {1: "N", 2: (48.0, 8.0, 30.5)}, {0x9003: "2020:01:02 03:04:05"}
    PICTURE.save(tmp_path / "a.jpg", exif=exif, xmp=XMP.replace(b'"6"', b'"1"'), icc_profile=SRGB)
    PICTURE.save(tmp_path / "b.tif", compression="tiff_lzw")
    for path, target in (("a.jpg", "c.tif"), ("c.tif", "d.tif")):
        image = restored(tmp_path / path, tmp_path / target)
        assert image.getexif()[Base.Make] == "Maker"
        assert image.getexif().get_ifd(0x8825) == {1: "N", 2: (48.0, 8.0, 30.5)}
        assert image.getexif().get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
        assert (image.info["xmp"], image.info["icc_profile"]) == (UPRIGHT, SRGB)
    assert restored(tmp_path / "b.tif", tmp_path / "e.tif").info["compression"] == "tiff_lzw"
    assert "kept" not in (told := capfd.readouterr().err)
    assert told.count("\n") == 3, "libtiff writes no lines of its own"


def test_tags_that_cannot_be_written_to_a_tiff_are_left_out_and_said(tmp_path, capsys):
    """A description that is a number is read, and cannot be written as text."""
    block = b"II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHII", 0x10F, 2, 6, 38) + struct.pack("<HHII", 0x10E, 12, 1, 46) + bytes(4)
    (tmp_path / "a.jpg").write_bytes(with_segments(encoded(PICTURE, "JPEG"), b"Exif\0\0" + block + b"Maker\0\0\0" + struct.pack("<d", 1.5)))
    image = restored(tmp_path / "a.jpg", tmp_path / "b.tif")
    assert image.getexif()[Base.Make] == "Maker"
    told = capsys.readouterr().err
    assert told.endswith("; its EXIF block is kept in part: TIFF cannot hold all of it\n")


@pytest.mark.parametrize(("format", "longest"), [("webp", 16_383), ("jpg", 65_500), ("gif", 65_535)])
def test_sides_beyond_a_format_are_known_before_the_network_runs(format, longest, tmp_path):
    Image.new("L", (longest + 1, 1)).save(tmp_path / "a.png")
    message = refusal(tmp_path / "a.png", tmp_path / f"b.{format}")
    assert f"sides of {longest:,} pixels at most" in message
    assert f"{longest + 1}x1" in message
    assert "--output-format=png" in message
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_longest_side_that_fits_is_written(tmp_path):
    Image.new("RGB", (16_383, 1)).save(tmp_path / "a.png")
    assert restored(tmp_path / "a.png", tmp_path / "b.webp").size == (16_383, 1)


def test_profile_of_inks_and_depth_that_are_lost_are_said(tmp_path, capsys):
    PICTURE.convert("CMYK").save(tmp_path / "a.tif", icc_profile=b"of inks" * 20)
    restored(tmp_path / "a.tif", tmp_path / "b.png")
    assert "its colour profile is not kept: PNG cannot hold it" in capsys.readouterr().err
    samples = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(png16.encode(samples))
    restored(tmp_path / "deep.png", tmp_path / "c.tif")
    assert "its 16 bits a channel become 8; choose PNG" in capsys.readouterr().err


def test_the_page_is_answered_in_its_own_words(tmp_path):
    (tmp_path / "upload").write_bytes(encoded(PICTURE, "PNG"))
    with pytest.raises(InputError) as error:
        restore_upload(tmp_path / "upload", restore_fn=full_device, max_pixels=10**6)
    assert str(error.value) == "An image of 16x8 pixels does not fit in memory; scale it down."
    block = long_block(100_000)
    parts = [b"Exif\0\0" + block[at : at + 65_000] for at in range(0, len(block), 65_000)]
    (tmp_path / "upload").write_bytes(with_segments(encoded(PICTURE, "JPEG"), *parts))
    answer = restore_upload(tmp_path / "upload", restore_fn=lambda image: image, max_pixels=10**6)
    assert Image.open(answer.path).getexif()[0x112] == 1


def full_device(image):
    raise InputError(
        "An image of 16x8 pixels does not fit in memory; use smaller tiles (--tile=384).",
        plain="An image of 16x8 pixels does not fit in memory; scale it down.",
    )


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_phones_photographs_become_jpeg_unless_asked(format, tmp_path):
    pytest.importorskip("pillow_heif", reason="HEIC: pip install 'drsn-jax[heif]'").register_heif_opener()
    suffix = ".heic" if format == "HEIF" else ".avif"
    if suffix not in Image.registered_extensions():
        pytest.skip("this Pillow was built without AVIF")
    data = encoded(PICTURE.resize((32, 16)), format, exif=b"Exif\0\0" + tiff_block(6), xmp=UPRIGHT)
    (tmp_path / f"a{suffix}").write_bytes(data)
    (tmp_path / "named.jpg").write_bytes(data)
    (tmp_path / "plain").write_bytes(data)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg")
    report = restore_files([tmp_path / name for name in (f"a{suffix}", "a.jpg", "named.jpg", "plain")], restore_fn=lambda image: image)
    assert not report.failed
    names = [f"a{suffix}.restored.jpg", "a.restored.jpg", "named.restored.jpg", "plain.restored.jpg"]
    assert [path.name for path in report.restored] == names, "each has a name of its own"
    for path in report.restored:
        image = Image.open(path)
        assert (image.format, image.size) == ("JPEG", (9, 9) if path.name == names[1] else (16, 32))
    assert Image.open(report.restored[0]).info["xmp"] == UPRIGHT
    asked = restored(tmp_path / f"a{suffix}", tmp_path / "out", output_format=suffix[1:])
    assert (asked.format, asked.size) == (format, (16, 32))
    (tmp_path / "upload").write_bytes(data)
    answer = restore_upload(tmp_path / "upload", restore_fn=lambda image: image, max_pixels=10**6)
    assert (answer.media_type, answer.path.name, Image.open(io.BytesIO(answer.path.read_bytes())).format) == (
        "image/jpeg",
        "restored.jpg",
        "JPEG",
    )


def test_heic_without_its_reader_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert "pip install 'drsn-jax[heif]'" in refusal(tmp_path / "a.heic")
    (tmp_path / "upload").write_bytes((tmp_path / "a.heic").read_bytes())
    with pytest.raises(InputError) as error:
        restore_upload(tmp_path / "upload", restore_fn=never, max_pixels=10**6)
    assert str(error.value) == "The file is a photograph of type HEIC, which cannot be read here; convert it to JPEG."
    PICTURE.save(tmp_path / "b.png")
    assert "writing HEIC needs pillow-heif" in refusal(tmp_path / "b.png", tmp_path / "c.heic")
