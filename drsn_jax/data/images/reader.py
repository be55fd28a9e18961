"""The one reader of image files, for restoring, evaluation, training and the page, from paths, archives and prepared data sets."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer
from PIL import ImageFile

from drsn_jax.data.images.decoding import decode, stored_size
from drsn_jax.data.images.exif import TURNED, upright
from drsn_jax.data.images.metadata import read_metadata, read_orientation
from drsn_jax.data.images.opening import ImageSource, opening
from drsn_jax.data.images.photo import Photo, Stream, quoted
from drsn_jax.system.errors import BadImageError


def read_photo(file: str | ImageSource, *, max_pixels: int | None = None) -> Photo:
    """Read one image file: JPEG, PNG, TIFF, WebP, BMP, GIF, PPM, AVIF or HEIC, 8 bits a channel, or 16 in PNG, TIFF and PGM.

    The samples are upright. Raises BadImageError, naming the file, if it is not exactly one complete picture: missing, empty, damaged, cut
    short, several frames, an unsupported depth or format. Raises it before decoding if the header states more than `max_pixels`. HEIC needs
    pillow-heif, AVIF a Pillow with AVIF support.
    """
    with opening(file) as (image, stream):
        if max_pixels is not None:
            _check_size(image, file, max_pixels=max_pixels)
        format, compression = str(image.format), image.info.get("compression") if image.format == "TIFF" else None
        metadata = read_metadata(image, stream)
        samples, mode = decode_upright(image, stream, name=quoted(file))
        return Photo(
            samples=samples,
            mode=mode,
            path=Path(str(file)),
            format="JPEG" if format == "MPO" else format,
            metadata=metadata,
            lossless=format in ("PNG", "TIFF", "BMP", "GIF", "PPM") or (format == "WEBP" and _is_lossless_webp(stream)),
            compression=compression,
        )


def decode_upright(image: ImageFile.ImageFile, stream: Stream, *, name: str) -> tuple[Integer[np.ndarray, "h w channels"], str]:
    """Return the upright samples of an open image, and their mode; see `decode`."""
    orientation = read_orientation(image, stream)
    samples, mode = decode(image, stream, name=name)
    return upright(samples, orientation), mode


def upright_size(image: ImageFile.ImageFile, stream: Stream) -> tuple[int, int]:
    """Return (height, width) of the upright picture without decoding a pixel."""
    width, height = stored_size(image)
    return (width, height) if read_orientation(image, stream) in TURNED else (height, width)


def _check_size(image: ImageFile.ImageFile, file: str | ImageSource, *, max_pixels: int) -> None:
    tags = getattr(image, "tag_v2", {})
    tile = tags.get(322, 0), tags.get(323, 0)  # width and length; a tile of a TIFF may exceed the image, and is decoded whole
    for what, (width, height) in (("", image.size), ("tiles of ", tile)):
        if width * height > max_pixels:
            excess = f"{what}{width}x{height} pixels ({width * height / 1e6:.1f} MP), more than {max_pixels / 1e6:g} MP"
            raise BadImageError(f"{quoted(file)} has {excess}; scale it down.")


def _is_lossless_webp(stream: Stream) -> bool:
    """Check whether the pixels are in a VP8L chunk (RFC 9649, section 2), which Pillow does not report."""
    stream.seek(12)
    while len(header := stream.read(8)) == 8:
        if header[:4] in (b"VP8L", b"VP8 "):
            return header[:4] == b"VP8L"
        length = int.from_bytes(header[4:], "little")
        stream.seek(length + length % 2, 1)
    return False
