"""Orientation: turning the pixels upright, and saying so in the EXIF block without touching the rest of it."""

import struct

import numpy as np
from jaxtyping import Shaped
from PIL import Image
from PIL.ExifTags import IFD, Base

PREFIX = b"Exif\x00\x00"
_DESCRIPTIVE = (Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.Copyright)


def upright(samples: Shaped[np.ndarray, "h w *channels"], orientation: int) -> Shaped[np.ndarray, "H W *channels"]:
    """Pixels as they are meant to be seen, given the EXIF orientation 1-8 (EXIF 2.3, 4.6.4 A); others change nothing."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return np.ascontiguousarray(samples)


def read_exif(image: Image.Image) -> tuple[bytes, int]:
    """EXIF block of a loaded image with its prefix and the orientation set to 1, and the orientation still to be applied.

    A damaged block is dropped: it must not cost the picture. Everything else stays byte for byte (maker notes hold offsets), but
    the preview of an image that is turned is unlinked, since it would be shown lying on its side.
    """
    try:
        tags = image.getexif()
        orientation = tags.get(Base.Orientation, 1)
        block = image.info.get("exif") or (_from_tiff(tags) if image.format == "TIFF" else tags.tobytes() if len(tags) else b"")
        return _set_upright(block, drop_preview=orientation != 1), orientation
    except Exception:  # Pillow's parser raises whatever the damage happens to trip
        return b"", 1


def _from_tiff(tags: Image.Exif) -> bytes:
    """A TIFF's EXIF tags lie among those of its layout (strip offsets, bit depths), which the new file must not inherit."""
    exif = Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in tags:
            exif[tag] = tags[tag]
    for ifd in (IFD.Exif, IFD.GPSInfo):
        if content := tags.get_ifd(ifd):
            exif[ifd] = content
    return exif.tobytes() if len(exif) else b""


def _set_upright(block: bytes, *, drop_preview: bool) -> bytes:
    data = bytearray(block.removeprefix(PREFIX))
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None:
        return b""
    (ifd,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, ifd)
    for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", data, entry) == (Base.Orientation,):
            struct.pack_into(f"{order}HHIHH", data, entry, Base.Orientation, 3, 1, 1, 0)  # one SHORT, value 1
    if drop_preview:
        struct.pack_into(f"{order}I", data, ifd + 2 + 12 * count, 0)  # no next directory: the preview lies there
    return PREFIX + bytes(data)
