"""16-bit PNG files, which Pillow reads at 8 bits and cannot write in colour (PNG specification, third edition, W3C)."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from drsn_jax.data.images.photo import Stream
from drsn_jax.system.errors import BadImageError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type
# Pillow's own decoder keeps the high bytes; reading the same data as little-endian gives the low ones. A grey and
# alpha pixel has four bytes, like an 8-bit RGBA one, so it is decoded in one pass.
_RAWMODES = {"I;16B": ("I;16B",), "RGB;16B": ("RGB;16B", "RGB;16L"), "RGBA;16B": ("RGBA;16B", "RGBA;16L"), "LA;16B": ("RGBA",)}
COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")  # they define the colours of the numbers
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_KEPT_CHUNKS = (*COLOUR_CHUNKS, *TEXT_CHUNKS, b"eXIf")


def read_chunks(stream: Stream) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Return the bits per sample, and the chunks (name, data) of colour, text and EXIF, before and after the pixels, in order.

    The stream must be a PNG. If it ends early, the chunks so far are returned.
    """
    stream.seek(0)
    header, chunks = stream.read(33), []
    bit_depth = header[24] if len(header) == 33 else 8
    while len(start := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        if name == b"IEND":
            break
        if name in _KEPT_CHUNKS and len(data := stream.read(length)) == length:
            chunks.append((name, data))
            stream.seek(4, io.SEEK_CUR)  # the checksum
        elif name not in _KEPT_CHUNKS:
            stream.seek(length + 4, io.SEEK_CUR)
    return bit_depth, chunks


def decode(stream: Stream, *, name: str = "The file") -> UInt16[np.ndarray, "h w channels"]:
    """Decode all 16 bits of a PNG file: one channel (grey), two (with alpha), three or four; a transparent colour becomes alpha.

    Raises BadImageError, naming the file `name`, if this Pillow's decoder does not behave as expected; Pillow's own errors for
    damaged files.
    """
    stream.seek(0)
    with Image.open(stream, formats=["PNG"]) as image:
        packed, transparent = image.tile[0].args, image.info.get("transparency")
    if packed not in _RAWMODES:
        raise BadImageError(f"{name} has 16 bits a channel, which this version of Pillow does not support; save it with 8 bits.")
    parts = []
    for rawmode in _RAWMODES[packed]:
        stream.seek(0)
        with Image.open(stream, formats=["PNG"]) as image:
            image.tile = [image.tile[0]._replace(args=rawmode)]
            image.load()
            parts.append(np.asarray(image).astype(np.uint16))
    if packed == "LA;16B":
        samples = parts[0][..., 0::2] * np.uint16(256) + parts[0][..., 1::2]
    elif packed == "I;16B":
        samples = parts[0][..., None]
    else:
        samples = parts[0] * np.uint16(256) + parts[1]
    if transparent is None:
        return samples
    alpha = np.where((samples == np.atleast_1d(transparent)).all(axis=-1, keepdims=True), 0, 65535)
    return np.concatenate([samples, alpha.astype(np.uint16)], axis=-1)


def encode(
    samples: UInt16[np.ndarray, "h w channels"],
    *,
    exif: bytes = b"",
    icc_profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Encode a PNG file of 16 bits per sample. Every row is filtered by the one above (filter type 2, Up).

    `exif` has no prefix; `chunks` (name, data) are of colour and text.
    """
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2
    filtered[:1, 1:] = rows[:1]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    parts = [_SIGNATURE, _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0))]
    parts += [_chunk(name, data) for name, data in chunks]
    if icc_profile:
        parts.append(_chunk(b"iCCP", b"ICC Profile\x00\x00" + zlib.compress(icc_profile)))
    if dpi:
        parts.append(_chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1)))  # pixels per metre
    if exif:
        parts.append(_chunk(b"eXIf", exif))
    parts += [_chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
