"""From an opened image file to a `Photo`: every mode Pillow reads without loss, widened to grey, RGB or CMYK."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image, ImageFile

from drsn_jax.data.images import png16
from drsn_jax.data.images.exif import read_exif, upright
from drsn_jax.data.images.photo import Photo, quoted
from drsn_jax.system.errors import InputError

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B"}
_SAVE_AS = "save it as PNG or JPEG with 8 bits a channel, or as PNG with 16"


def decode_photo(image: ImageFile.ImageFile, path: Path) -> Photo:
    """Decode `image`, just opened from `path`, wholly; Pillow's own errors pass through.

    Raises InputError for what would be restored wrongly or only in part: several frames, floats, depths Pillow cuts to 8 bits.
    A camera's JPEG with previews or gain maps behind the photograph (MPO) is its first frame.
    """
    _refuse(image, path)
    bit_depth, chunks = png16.read_header(path) if image.format == "PNG" else (8, ())
    compression = image.info.get("compression") if image.format == "TIFF" else None
    image.load()
    # After loading: Pillow turns TIFF files upright on its own, and PNG may carry EXIF behind the pixels.
    exif, orientation = read_exif(image)
    if bit_depth == 16:
        samples = png16.decode(path)
        mode = ("L", "LA", "RGB", "RGBA")[samples.shape[-1] - 1]
    else:
        samples, mode = _to_samples(image)
    samples = upright(samples, orientation)
    return Photo(
        rgb=_to_rgb(samples, mode),
        path=path,
        format="JPEG" if image.format == "MPO" else str(image.format),
        mode=mode,
        bit_depth=16 if samples.dtype == np.uint16 else 8,
        alpha=samples[..., -1] if mode.endswith("A") else None,
        cmyk=samples if mode == "CMYK" else None,
        exif=exif,
        icc_profile=image.info.get("icc_profile") or None,
        dpi=_dpi(image),
        lossless=image.format not in ("JPEG", "MPO") and not (image.format == "WEBP" and not _is_lossless_webp(path)),
        compression=compression,
        colour_chunks=chunks,
    )


def _refuse(image: ImageFile.ImageFile, path: Path) -> None:
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        frames = getattr(image, "n_frames", 1)
        raise InputError(f"{quoted(path)} holds {frames} frames or pages; only single images are restored, save each as its own file.")
    if image.mode not in _MODES:
        kind = {"F": "floating-point pixels", "I": "32-bit or signed integer pixels"}.get(image.mode, f"pixels of mode {image.mode}")
        raise InputError(f"{quoted(path)} holds {kind}, which are not supported; {_SAVE_AS}.")
    bits = 8
    if image.format == "TIFF":
        bits = max(getattr(image, "tag_v2", {}).get(258, (1,)))  # BitsPerSample
    elif image.format == "PPM" and isinstance(image.tile[0].args, tuple) and image.tile[0].codec_name.startswith("ppm"):
        bits = int(image.tile[0].args[-1]).bit_length()  # the largest value
    if bits > 8 and not (bits == 16 and image.mode.startswith("I;16")):
        raise InputError(f"{quoted(path)} is a {image.format} file of {bits} bits a channel, which are not supported; {_SAVE_AS}.")


def _to_samples(image: Image.Image) -> tuple[Integer[np.ndarray, "h w channels"], str]:
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], "L"
    if image.mode == "CMYK":
        return np.asarray(image), "CMYK"
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA"):
        # By way of RGBA because Pillow turns a transparent grey level into alpha there for all three modes.
        return (np.asarray(image.convert("RGBA"))[..., [0, 3]], "LA") if transparent else (np.asarray(image.convert("L"))[..., None], "L")
    mode = "RGBA" if transparent else "RGB"
    return np.asarray(image.convert(mode)), mode


def _to_rgb(samples: np.ndarray, mode: str) -> Float[np.ndarray, "h w 3"]:
    scaled = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    if mode == "CMYK":
        return (1 - scaled[..., :3]) * (1 - scaled[..., 3:])
    return np.repeat(scaled[..., :1], 3, axis=-1) if mode.startswith("L") else np.ascontiguousarray(scaled[..., :3])


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    return (float(dpi[0]), float(dpi[1])) if dpi and all(0 < value < 1e6 for value in dpi) else None


def _is_lossless_webp(path: Path) -> bool:
    """Whether the pixels lie in a VP8L chunk (RFC 9649, section 2); Pillow does not say."""
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            if header[:4] in (b"VP8L", b"VP8 "):
                return header[:4] == b"VP8L"
            length = int.from_bytes(header[4:], "little")
            file.seek(length + length % 2, 1)
    return False
