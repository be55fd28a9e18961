"""The metadata that each image format supports, and the options of Pillow that write it."""

from collections.abc import Iterator
from typing import Any

from PIL import Image
from PIL.ExifTags import IFD

from drsn_jax.data.images import iptc
from drsn_jax.data.images.exif import PREFIX, block_of_tiff
from drsn_jax.data.images.photo import Metadata, Photo

_HOLDERS = {  # for each piece of metadata, the formats that support it
    "EXIF block": {"JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"},
    "XMP": {"JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"},
    "IPTC record": {"JPEG", "TIFF"},
    "colour profile": {"JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"},
    "comment": {"JPEG", "PNG", "GIF"},
    "text": {"PNG"},
}
_TIFF_TAGS = {"XMP": 700, "IPTC record": iptc.TIFF_TAG}  # XMP specification, part 3, 1.1.5
_SEGMENT = 65_533  # maximum bytes in a segment of a JPEG file


def png_chunks(metadata: Metadata) -> tuple[tuple[bytes, bytes], ...]:
    """Return colour and text as chunks of PNG. Text is uncompressed UTF-8 (PNG specification, 11.3.3.4)."""
    own = {b"Comment": metadata.comment, b"XML:com.adobe.xmp": metadata.xmp}
    texts = tuple((b"iTXt", keyword + b"\0\0\0\0\0" + text) for keyword, text in own.items() if text)
    return (*metadata.colour_chunks, *metadata.text_chunks, *texts)


def pieces(photo: Photo, format: str, mode: str, options: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the name of each existing piece of metadata, and the choices of Pillow's options for it. The caller uses the first that works.

    `options` are those chosen for earlier pieces, because in a TIFF XMP and IPTC are EXIF tags.
    """
    metadata = photo.metadata
    profile = metadata.icc_profile if mode.rstrip("A") == photo.mode.rstrip("A") else None  # a profile of inks does not describe RGB
    there: dict[str, Any] = {"EXIF block": metadata.exif, "XMP": metadata.xmp, "IPTC record": metadata.iptc}
    there |= {"comment": metadata.comment, "text": metadata.text_chunks, "colour profile": metadata.icc_profile}
    for name, piece in there.items():
        held = format in _HOLDERS[name]
        if name == "EXIF block" and piece:
            yield name, list(_exif_choices(metadata.exif, format)) if held else []
        elif name == "colour profile" and piece:
            yield name, [{"icc_profile": profile}] if held and profile else []
        elif name in _TIFF_TAGS and piece and format == "TIFF":
            yield name, [_tiff_options(options.get("exif", b""), {_TIFF_TAGS[name]: piece})]
        elif name == "IPTC record" and piece and held:
            segment = iptc.jpeg_segment(piece)
            yield name, [{"extra": options.get("extra", b"") + segment}] if segment else []
        elif piece:
            # PNG's are chunks, which we write ourselves without an option of Pillow.
            yield name, [{} if format == "PNG" else {name.lower(): piece}] if held else []


def _exif_choices(exif: bytes, format: str) -> Iterator[dict[str, Any]]:
    if format == "JPEG" and len(exif) > _SEGMENT:
        # Split into several segments, as cameras do. Each begins with the prefix.
        block, step = exif.removeprefix(PREFIX), _SEGMENT - len(PREFIX)
        parts = [PREFIX + block[at : at + step] for at in range(0, len(block), step)]
        yield {"extra": b"".join(b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part for part in parts)}
    else:
        yield _tiff_options(exif) if format == "TIFF" else {"exif": exif}
    try:
        tags = Image.Exif()
        tags.load(exif)
        writable = block_of_tiff(tags)[0]
    except Exception:  # Pillow's parser raises different errors, depending on the damage
        return
    if writable:
        yield _tiff_options(writable) if format == "TIFF" else {"exif": writable}


def _tiff_options(exif: bytes, more: dict[int, bytes] | None = None) -> dict[str, Any]:
    """Return the options for EXIF tags and `more` in a TIFF. Compression uses libtiff, which cannot write the EXIF and GPS directories."""
    tags = Image.Exif()
    try:
        if exif:
            tags.load(exif)
        for tag, value in (more or {}).items():
            tags[tag] = value
        plain = {"compression": "raw"} if {IFD.Exif, IFD.GPSInfo, IFD.Interop} & set(tags) else {}
        return {"exif": tags.tobytes()} | plain
    except Exception:  # tags that can be read but not written: Pillow will refuse them again
        return {"exif": exif, "compression": "raw"}
