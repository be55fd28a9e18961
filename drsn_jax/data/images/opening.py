"""Opening of image files: sources, supported formats, and messages for unreadable files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, features

from drsn_jax.data.images.photo import Stream, quoted, reason
from drsn_jax.system.errors import BadImageError, InputError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_READERS = {
    "HEIF": ("HEIC", "pillow-heif reads: pip install 'drsn-jax[heif]'"),
    "AVIF": ("AVIF", "Pillow reads from version 11.3 on: pip install -U pillow"),
}
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point"}


@runtime_checkable
class ImageSource(Protocol):
    """A source of an image: a `Path`, a file in an archive, an image of a prepared data set. `str` of it is its name in messages.

    If it knows its (height, width) it has them as `size`, and is not opened for measuring.
    """

    def open(self, mode: Any = "rb", /) -> Any:
        """Open a binary stream of the encoded image."""
        ...

    def read_bytes(self) -> bytes:
        """Return the encoded image."""
        ...


@contextmanager
def opening(file: str | ImageSource) -> Iterator[tuple[ImageFile.ImageFile, Stream]]:
    """Open an image. Any error of a decoder on damaged data, here or in the caller's block, becomes a `BadImageError`."""
    file = Path(file) if isinstance(file, str) else file
    try:
        if isinstance(file, Path):
            check_source(file)
        with file.open("rb") as stream, Image.open(stream, formats=_formats(stream, quoted(file))) as image:
            assert isinstance(image, ImageFile.ImageFile)
            yield image, stream
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise _to_error(file, error) from error


def format_of(file: Path) -> str | None:
    """Return Pillow's name of an image's format, by its content; None for anything else."""
    try:
        with opening(file) as (image, _):
            return "JPEG" if image.format == "MPO" else image.format
    except BadImageError:
        return None


def check_source(path: Path, *, kind: str = "an image") -> None:
    """Raise BadImageError unless `path` is a regular file with something in it."""
    if path.is_dir():
        raise BadImageError(f"{quoted(path)} is a folder, not {kind}; give the name of a file.")
    if not path.exists():
        what = "is a broken link; repair or remove it" if path.is_symlink() else "does not exist; check the name"
        raise BadImageError(f"{quoted(path)} {what}.")
    if not path.is_file():
        raise BadImageError(f"{quoted(path)} is not a regular file; give {kind} file.")  # reading a pipe would block
    if path.stat().st_size == 0:
        raise BadImageError(f"{quoted(path)} is empty (0 bytes); replace or remove it.")


def open_phone_formats() -> list[str]:
    """Register AVIF and HEIF with Pillow, if supported here, and return them."""
    found = ["AVIF"] if "avif" in features.modules and features.check("avif") else []
    try:
        import pillow_heif
    except ImportError:
        return found
    pillow_heif.register_heif_opener()
    return [*found, "HEIF"]


def _formats(stream: Stream, name: str) -> list[str]:
    """Return the possible formats of the content. Raises BadImageError, naming the file `name`, if its reader is not installed."""
    head = stream.read(64)
    stream.seek(0)
    if head[4:8] != b"ftyp":
        return list(FORMATS)
    brands = {head[8:12]} | {head[at : at + 4] for at in range(16, min(int.from_bytes(head[:4], "big"), 64), 4)}
    wanted = "AVIF" if brands & {b"avif", b"avis"} else "HEIF" if brands & _HEIF_BRANDS else None
    if wanted is None:
        return list(FORMATS)
    if wanted not in open_phone_formats():
        kind, advice = _READERS[wanted]
        plain = f"{name} is a photograph of type {kind}, which cannot be read here; convert it to JPEG."
        raise BadImageError(f"{name} is a photograph of type {kind}, which {advice}, or convert it to JPEG.", plain=plain)
    return [wanted]


def _to_error(file: ImageSource, error: Exception) -> BadImageError:
    """Make the error for a file from `error`, raised while opening or decoding it."""
    name = quoted(file)
    if isinstance(error, PermissionError):
        return BadImageError(f"{name} cannot be read ({reason(error)}); check the permissions of the file.")
    if isinstance(error, OSError) and error.errno:  # the system's errors; Pillow's have no number
        return BadImageError(f"{name} cannot be read ({reason(error)}); check the file and its disk.")
    if isinstance(error, Image.DecompressionBombError):
        return BadImageError(f"{name} is too large: {reason(error)} Crop it, or scale it down, and try again.")
    if isinstance(error, UnidentifiedImageError):
        if not isinstance(file, Path) and not file.read_bytes():
            return BadImageError(f"{name} is empty (0 bytes); replace or remove it.")
        if kind := _describe_tiff(file):
            return BadImageError(f"{name} is a TIFF of {kind}, which is not supported; save it as PNG or JPEG, or as PNG with 16 bits.")
        return BadImageError(f"{name} is not an image of a format that can be read; give one of {', '.join(FORMATS)}, AVIF, HEIC.")
    return BadImageError(f"{name} is damaged or cut short ({reason(error)}); replace or remove it.")


def _describe_tiff(file: ImageSource) -> str:
    """Describe the samples of an intact TIFF that Pillow does not support, from its tags; empty for any other file."""
    with file.open("rb") as stream:
        header = stream.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*"):
            return ""
        try:
            tags: Any = TiffImagePlugin.ImageFileDirectory_v2(header)
            stream.seek(tags.next)
            tags.load(stream)
            bits, channels = max(tags[258]), int(tags.get(277, 1))
            kind = _SAMPLE_FORMATS.get(max(tags.get(339, (1,))), "unknown")
        except Exception:  # damaged: Pillow's parser raises many types
            return ""
    order = ", big-endian" if header[:2] == b"MM" else ""
    return f"{channels} channel{'s' if channels > 1 else ''} of {bits}-bit {kind} numbers{order}"
