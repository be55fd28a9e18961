"""The EXIF block: its orientation, and the block for upright pixels, otherwise unchanged byte for byte."""

import re
import struct

import numpy as np
from jaxtyping import Shaped
from PIL import Image
from PIL.ExifTags import IFD, Base

PREFIX = b"Exif\x00\x00"
TURNED = (5, 6, 7, 8)  # the orientations that swap height and width
_DESCRIPTIVE = (Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.Copyright)
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG: Pillow accepts all three for an orientation
_IN_XMP = re.compile(rb'(tiff:Orientation(?:="|>))([0-9])')


def upright(samples: Shaped[np.ndarray, "h w *channels"], orientation: int) -> Shaped[np.ndarray, "H W *channels"]:
    """Rotate and mirror pixels by the EXIF orientation 1-8 (EXIF 2.3, 4.6.4 A); other values change nothing."""
    if orientation in TURNED:
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return np.ascontiguousarray(samples)


def find_orientation(block: bytes, xmp: bytes) -> int:
    """Return the orientation from EXIF, else from XMP, else 1. From a damaged block the readable part is used."""
    data, order, entries = _read(block)
    found = [value for entry in entries if (value := _value(data, order, entry)) is not None]
    if found:
        return found[-1]
    in_xmp = _IN_XMP.search(xmp)
    return int(in_xmp[2]) if in_xmp else 1


def make_upright(block: bytes) -> bytes | None:
    """Return the block with its prefix, orientation 1 and no thumbnail; None if it is too damaged to be read.

    Everything else keeps its position, because maker notes contain offsets. Truncated entries are no longer counted, and a directory that
    ends after its entries gets the four bytes that should follow.
    """
    data, order, entries = _read(block)
    if not order:
        return None
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    struct.pack_into(f"{order}H", data, first, len(entries))
    for entry in entries:
        if _value(data, order, entry) is not None:
            struct.pack_into(f"{order}HHIHH", data, entry, Base.Orientation, 3, 1, 1, 0)  # one SHORT, value 1
    following = first + 2 + 12 * len(entries)
    if following + 4 > len(data):
        data = data[:following] + bytes(4)
    thumbnail = _find_thumbnail(data, order, following)
    struct.pack_into(f"{order}I", data, following, 0)  # no next directory: its thumbnail shows the blurred picture
    return PREFIX + bytes(data[:thumbnail])


def xmp_upright(xmp: bytes) -> bytes:
    """Return the XMP packet with its orientation, if any, set to 1."""
    return _IN_XMP.sub(rb"\g<1>1", xmp)


def block_of_tiff(tags: Image.Exif) -> tuple[bytes, bool]:
    """Return a block of a TIFF's descriptive tags, and whether it is complete: some readable tags cannot be written.

    In the file they are mixed with those of the TIFF's layout (strip offsets, bit depths), which another file must not inherit.
    """
    exif, complete = Image.Exif(), True
    for tag in _DESCRIPTIVE:
        if tag in tags:
            complete &= _add(exif, tag, tags[tag])
    for ifd in (IFD.Exif, IFD.GPSInfo):
        kept = {}
        for tag, value in tags.get_ifd(ifd).items():
            writable = _add(Image.Exif(), ifd, {tag: value})
            kept |= {tag: value} if writable else {}
            complete &= writable
        if kept:
            exif[ifd] = kept
    return (exif.tobytes() if len(exif) else b""), complete


def _add(exif: Image.Exif, tag: int, value: object) -> bool:
    """Add the tag if it can be written; returns whether it was added."""
    alone = Image.Exif()
    alone[tag] = value
    try:
        alone.tobytes()
    except Exception:  # depending on the value Pillow raises struct.error, TypeError, ValueError, ...
        return False
    exif[tag] = value
    return True


def _read(block: bytes) -> tuple[bytearray, str, list[int]]:
    """Return the block without a prefix, its byte order ("" without a first directory), and the position of that directory's entries."""
    while block.startswith(PREFIX):
        block = block.removeprefix(PREFIX)
    data = bytearray(block)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]), "")
    if not order or len(data) < 8:
        return data, "", []
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    if first < 8 or first + 2 > len(data):
        return data, "", []
    (count,) = struct.unpack_from(f"{order}H", data, first)
    return data, order, [entry for entry in range(first + 2, first + 2 + 12 * count, 12) if entry + 12 <= len(data)]


def _value(data: bytearray, order: str, entry: int) -> int | None:
    """Return the orientation in this entry; None for another tag, or if it is not a single number."""
    tag, kind, count = struct.unpack_from(f"{order}HHI", data, entry)
    if tag != Base.Orientation or kind not in _INTEGERS or count != 1:
        return None
    return struct.unpack_from(f"{order}{_INTEGERS[kind]}", data, entry + 8)[0]


def _find_thumbnail(data: bytearray, order: str, following: int) -> int | None:
    """Return the position of the next directory's thumbnail if only padding follows it; else None."""
    (second,) = struct.unpack_from(f"{order}I", data, following)
    if second < following + 4 or second + 2 > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}H", data, second)
    if (end := second + 2 + 12 * count) > len(data):
        return None
    entries = (struct.unpack_from(f"{order}HHII", data, entry) for entry in range(second + 2, end, 12))
    values = {tag: value for tag, _, _, value in entries}
    start, length = values.get(0x201, 0), values.get(0x202, 0)  # JPEGInterchangeFormat and its length
    return start if end <= start and length and 0 <= len(data) - start - length < 4 else None
