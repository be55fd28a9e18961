"""Restoration of an upload, from its bytes to the bytes of the answer, through temporary files."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from drsn_jax.data.images.photo import PHONE_FORMATS, SUFFIXES, Photo, quoted
from drsn_jax.data.images.reader import read_photo
from drsn_jax.restoration.core.restorer import RestoreFn, make_restore_fn
from drsn_jax.restoration.files.images import write_photo
from drsn_jax.restoration.files.targets import plan_encoding
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import Model

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp", "GIF": "image/gif"}
"""Formats that every browser shows. Any other is answered as PNG."""


_PROGRAMS = 32


class Choices(NamedTuple):
    """The options of a request: `strength` and `self_ensemble` of `make_restore_fn`."""

    strength: float = 1.0
    self_ensemble: bool = False


class Answer(NamedTuple):
    """A restored photograph: its file and the seconds of restoring, without reading and writing."""

    path: Path
    media_type: str
    width: int
    height: int
    seconds: float


MakeFn = Callable[[Choices, Callable[[], None]], RestoreFn]
"""Makes the function that restores one image, from the choices and a function that is called between tiles and may raise."""


def make_choosing_fn(model: Model, *, tile: int = 768, overlap: int = 64) -> MakeFn:
    """Make the restore functions of requests with `model`. Strength 0 skips the network.

    All requests share the compiled programs, one per size. Each takes some megabytes, so all are discarded when there are too many;
    otherwise memory would grow with the number of photographs.
    """
    sizes: set[tuple[int, ...]] = set()

    def make_fn(choices: Choices, check: Callable[[], None]) -> RestoreFn:
        if choices.strength == 0:
            return lambda image: image

        def checked(function: Callable) -> Callable:
            def call(image: Any, *corner: Any) -> Any:
                check()
                if len(sizes | {image.shape}) > _PROGRAMS:
                    jax.clear_caches()
                    sizes.clear()
                sizes.add(image.shape)
                return function(image, *corner)

            return call

        corner_fn = checked(model.corner_fn) if model.corner_fn else None
        checked_model = model._replace(predict_fn=checked(model.predict_fn), corner_fn=corner_fn)
        return make_restore_fn(checked_model, **choices._asdict(), tile=tile, overlap=overlap)

    return make_fn


def restore_upload(upload: Path, *, restore_fn: RestoreFn, max_pixels: int) -> Answer:
    """Restore the image file `upload`, which has no suffix, into a file beside it.

    The result keeps format, depth and metadata. Formats that not every browser shows become PNG; HEIC or AVIF from a phone, without
    transparency, becomes JPEG. Raises InputError as `read_photo`, `plan_encoding` and `restore_fn` do, with a message that shows neither
    the file's path nor command-line options.
    """
    answer = upload.with_name("restored")
    try:
        photo = read_photo(upload, max_pixels=max_pixels)
        answer, media_type = _choose_answer(photo, upload)
        encoding = plan_encoding(photo, answer)
        start = time.perf_counter()
        restored = restore_fn(photo.rgb)
        seconds = time.perf_counter() - start
        write_photo(photo, restored, answer, encoding=encoding)
    except InputError as error:
        message = error.plain
        for path in (upload, answer):
            message = message.replace(quoted(path), "The file")
        raise InputError(message) from error
    height, width = restored.shape[:2]
    return Answer(answer, media_type, width, height, seconds)


def _choose_answer(photo: Photo, upload: Path) -> tuple[Path, str]:
    """Choose the file of the answer and its media type."""
    if photo.format in MEDIA_TYPES:
        return upload.with_name("restored"), MEDIA_TYPES[photo.format]
    suffix = ".jpg" if photo.format in PHONE_FORMATS and photo.alpha is None else ".png"
    return upload.with_name(f"restored{suffix}"), MEDIA_TYPES[SUFFIXES[suffix]]
