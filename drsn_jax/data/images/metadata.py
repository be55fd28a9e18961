"""The metadata of an image file. Damaged metadata never costs the picture, nor a readable orientation."""

import re
import zlib
from typing import NamedTuple

from PIL import Image, ImageFile

from drsn_jax.data.images import png16
from drsn_jax.data.images.exif import block_of_tiff, find_orientation, make_upright, xmp_upright
from drsn_jax.data.images.iptc import read_iptc
from drsn_jax.data.images.photo import Metadata, Stream

_XMP_KEYWORD, _EXIF_KEYWORDS = b"XML:com.adobe.xmp", (b"Raw profile type exif", b"Raw profile type APP1")
_MOST_XMP = 2**24  # bytes, uncompressed
# Namespaces in XMP for parts that the restored file does not have: a gain map (Ultra HDR), a short film (Motion Photo).
_OF_PARTS = re.compile(rb"hdrgm:|Container:Directory|MicroVideo|MotionPhoto")


class _Blocks(NamedTuple):
    """EXIF and XMP as in the file, PNG's chunks of text and colour, and notes about unreadable parts."""

    exif: bytes = b""
    xmp: bytes = b""
    colour_chunks: tuple[tuple[bytes, bytes], ...] = ()
    text_chunks: tuple[tuple[bytes, bytes], ...] = ()
    notes: tuple[str, ...] = ()


def read_orientation(image: ImageFile.ImageFile, stream: Stream) -> int:
    """Return the orientation to apply to the stored pixels, 1 if there is none. No pixel is decoded."""
    if image.format == "TIFF":
        # The tag of the TIFF's layout, which is used if the EXIF tags cannot be read.
        own = getattr(image, "tag_v2", {}).get(0x112)
        return own if own is not None else find_orientation(b"", _xmp_of(image))
    blocks = _read_png(stream) if image.format == "PNG" else _Blocks(image.info.get("exif") or b"", _xmp_of(image))
    return find_orientation(blocks.exif, blocks.xmp)


def read_metadata(image: ImageFile.ImageFile, stream: Stream) -> Metadata:
    """Read all metadata that can be kept. `image` must be just opened from `stream`: on loading Pillow rotates a TIFF, and its tags."""
    if image.format == "PNG":
        blocks = _read_png(stream)
    elif image.format == "TIFF":
        blocks = _read_tiff(image)
    else:
        blocks = _Blocks(image.info.get("exif") or b"", _xmp_of(image))
    exif, notes = make_upright(blocks.exif) if blocks.exif else b"", list(blocks.notes)
    if exif is None:
        notes.append("its EXIF block is damaged and not kept")
    if (iptc := read_iptc(image)) is None:
        notes.append("its IPTC record is damaged and not kept")
    if told := _OF_PARTS.search(blocks.xmp):
        notes.append(f"its XMP describes parts that are not restored ({told[0].decode().rstrip(':')}), so it is not kept")
    elif b"HasExtendedXMP" in blocks.xmp:
        notes.append("the extended part of its XMP is not kept")
    return Metadata(
        exif=exif or b"",
        xmp=b"" if told else xmp_upright(blocks.xmp),
        iptc=iptc or b"",
        icc_profile=image.info.get("icc_profile") or None,
        dpi=_dpi(image),
        comment=_as_bytes(image.info.get("comment")) if image.format in ("JPEG", "MPO", "GIF") else b"",
        colour_chunks=blocks.colour_chunks,
        text_chunks=blocks.text_chunks,
        notes=tuple(notes),
    )


def _read_png(stream: Stream) -> _Blocks:
    """Read the chunks directly, including those behind the pixels, which Pillow only finds when it decodes."""
    _, chunks = png16.read_chunks(stream)
    exif, xmp, texts, notes = b"", b"", [], []
    for name, data in chunks:
        keyword, _, rest = data.partition(b"\0")
        try:
            if name == b"eXIf":
                exif = data
            elif keyword == _XMP_KEYWORD and name == b"iTXt":
                xmp = _text_of(name, rest)
            elif keyword in _EXIF_KEYWORDS:
                # ImageMagick's format: a name, a length and hexadecimal digits, each on lines of their own.
                exif = exif or bytes.fromhex("".join(_text_of(name, rest).decode("latin-1").split("\n")[3:]))
            elif name in png16.TEXT_CHUNKS:
                texts.append((name, data))
        except (ValueError, zlib.error, IndexError):
            notes.append(f"its {keyword[:40].decode('latin-1')!r} is damaged and not kept")
    colours = tuple((name, data) for name, data in chunks if name in png16.COLOUR_CHUNKS)
    return _Blocks(exif, xmp, colours, tuple(texts), tuple(notes))


def _text_of(name: bytes, rest: bytes) -> bytes:
    """Return the text of a chunk after its keyword (PNG specification, 11.3.3). Raises ValueError, IndexError or zlib.error on damage."""
    packed = name == b"zTXt"
    if name == b"zTXt":
        rest = rest[1:]
    elif name == b"iTXt":
        packed = rest[0] == 1
        rest = rest[2:].split(b"\0", 2)[2]  # after the language and the translated keyword
    if not packed:
        return rest
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(rest, _MOST_XMP)
    if not unpacker.eof:
        raise ValueError("cut short, or longer than any packet")
    return text


def _read_tiff(image: ImageFile.ImageFile) -> _Blocks:
    try:
        exif, complete = block_of_tiff(image.getexif())
    except Exception:  # depending on the damage Pillow's parser raises many types
        return _Blocks(xmp=_xmp_of(image), notes=("its EXIF tags are damaged and not kept",))
    return _Blocks(exif, _xmp_of(image), notes=() if complete else ("some of its EXIF tags cannot be written and are not kept",))


def _xmp_of(image: Image.Image) -> bytes:
    return _as_bytes(image.info.get("xmp"))


def _as_bytes(value: object) -> bytes:
    """Convert Pillow's text to bytes. Its type depends on the file's declaration."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else b""


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info.get("dpi") or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None
