"""From the bytes of an upload to the bytes of its answer, by way of files with names of ours."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from drsn_jax.data.images.photo import Photo, quoted
from drsn_jax.restoration.core.restorer import RestoreFn, make_restore_fn
from drsn_jax.restoration.files.images import read_photo, write_photo
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import Model

MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "BMP": "image/bmp", "GIF": "image/gif"}
"""What every browser shows; anything else is answered as PNG."""


_PROGRAMS = 32


class Choices(NamedTuple):
    """What a request may choose: `strength` and `self_ensemble` of `make_restore_fn`."""

    strength: float = 1.0
    self_ensemble: bool = False


class Answer(NamedTuple):
    """A restored photograph: its file, and the seconds that restoring took, without reading and writing."""

    path: Path
    media_type: str
    width: int
    height: int
    seconds: float


MakeFn = Callable[[Choices, Callable[[], None]], RestoreFn]
"""From choices and a function to call between tiles, which may raise, to what restores one image."""


def make_choosing_fn(model: Model, *, tile: int = 768, overlap: int = 64) -> MakeFn:
    """The choices of one request made with `model`; strength 0 does not ask the network.

    All requests share the compiled programs, one for each size. They are thrown away when there are too many: some megabytes each, they
    would be all that grows with the number of photographs.
    """
    sizes: set[tuple[int, ...]] = set()

    def make_fn(choices: Choices, check: Callable[[], None]) -> RestoreFn:
        if choices.strength == 0:
            return lambda image: image

        def predict_fn(image: Any) -> Any:
            check()
            if len(sizes | {image.shape}) > _PROGRAMS:
                jax.clear_caches()
                sizes.clear()
            sizes.add(image.shape)
            return model.predict_fn(image)

        checked = model._replace(predict_fn=predict_fn)
        return make_restore_fn(checked, **choices._asdict(), tile=tile, overlap=overlap)

    return make_fn


def restore_upload(upload: Path, *, restore_fn: RestoreFn, max_pixels: int) -> Answer:
    """Restore the image file `upload`, which has no suffix, into a file beside it.

    It has the upload's format, depth, EXIF and colour profile; where browsers do not show that format, or it cannot hold the result, it is
    PNG. Raises InputError as `read_photo` and `restore_fn` do, in words of a page: without options of the command line, and without where
    the file lies.
    """
    same, png = upload.with_name("restored"), upload.with_name("restored.png")
    try:
        photo = read_photo(upload, max_pixels=max_pixels)
        start = time.perf_counter()
        restored = restore_fn(photo.rgb)
        seconds = time.perf_counter() - start
        answer = _write(photo, restored, same if photo.format in MEDIA_TYPES else png, otherwise=png)
    except InputError as error:
        raise InputError(_for_a_page(str(error), paths=(upload, same, png))) from error
    height, width = restored.shape[:2]
    return Answer(answer, "image/png" if answer == png else MEDIA_TYPES[photo.format], width, height, seconds)


def _write(photo: Photo, restored: Any, path: Path, *, otherwise: Path) -> Path:
    try:
        write_photo(photo, restored, path)
    except InputError:
        if path == otherwise:
            raise
        return _write(photo, restored, otherwise, otherwise=otherwise)
    return path


def _for_a_page(message: str, *, paths: Sequence[Path]) -> str:
    """A message without the clause that names an option, such as `; choose PNG (--output-format=png).`"""
    for path in paths:
        message = message.replace(quoted(path), "The file")
    clauses = [clause for clause in message.rstrip(".").split("; ") if "--" not in clause]
    return "; ".join(clauses or ["The file cannot be restored"]) + "."
