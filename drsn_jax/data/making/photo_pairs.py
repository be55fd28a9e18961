"""Pairs from sharp photographs by the blur of training (`drsn_jax.data.synthesis.blur`), one at a time.

A pair depends only on the seed, the photograph and its relative name, the copy's number and the recipe. Other photographs, the order and
the process have no influence. Another kind of device may round differently.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, UInt8

from drsn_jax.data.images.listing import IMAGE_SUFFIXES, name_images
from drsn_jax.data.images.rgb import image_size, read_rgb
from drsn_jax.data.making.pair_writer import Example, Line
from drsn_jax.data.synthesis.blur import synthesise
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.system.errors import InputError

SIZE_CLASS = 256  # whole photographs are padded to multiples of it, so that fewer sizes are compiled
_synthesise = jax.jit(synthesise, static_argnums=2)


class PhotoPairs(NamedTuple):
    """The settings for pairs from the photographs below `folder`: `crop` is the side of a random square, or None for whole photographs."""

    folder: Path
    copies: int
    crop: int | None
    recipe: BlurRecipe
    seed: int

    def check(self) -> None:
        """Raise `InputError` for invalid values."""
        self.recipe.check()
        if self.copies < 1:
            raise InputError(f"--pairs-per-photo={self.copies} makes no pair; use 1 or more")
        if self.crop is not None and self.crop < 1:
            raise InputError(f"--crop={self.crop} is not a size; use a number of pixels, such as 256, or whole")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed={self.seed} is out of range; use 0 to {2**32 - 1}")


def list_photos(folder: Path) -> list[str]:
    """List the relative names of all images below a folder, sorted; hidden files and folders are skipped.

    Raises `InputError` if it is not a folder, contains no image, or two names differ only in the suffix.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of photographs")
    names = sorted(path.relative_to(folder).as_posix() for path in name_images(folder).values())
    if not names:
        raise InputError(f"{folder} holds no photographs; images end in one of {', '.join(IMAGE_SUFFIXES)}")
    return names


def plan_photo_pairs(photos: Sequence[str], making: PhotoPairs, report: Callable[[str], None] = lambda text: None) -> list[Line]:
    """Plan the lines of all pairs from the headers. Raises `InputError` for a photograph that is unreadable or smaller than the crop."""
    lines: list[Line] = []
    for photo in photos:
        report(f"looking at {photo}")
        height, width = image_size(making.folder / photo)
        if making.crop is not None and min(height, width) < making.crop:
            raise InputError(
                f"{making.folder / photo} is {width}x{height}, smaller than the crop of {making.crop};"
                f" use --crop={min(height, width)} or less, --crop=whole, or remove it"
            )
        size = (making.folder / photo).stat().st_size  # identifies the photograph, in case another one replaces it later
        for copy in range(1, making.copies + 1):
            name = _stem(photo) if making.copies == 1 else f"{_stem(photo)}-{copy}"
            files = {"blurred": f"blur/{name}.png", "sharp": f"sharp/{name}.png"}
            lines.append({"name": name, "scene": "", "photo": photo, "bytes": size, "copy": copy} | files)
    return lines


def make_photo_pairs(lines: Iterable[Line], making: PhotoPairs) -> Iterator[Example]:
    """Apply `make_photo_pair` to each line."""
    return (make_photo_pair(line, making) for line in lines)


def make_photo_pair(line: Line, making: PhotoPairs) -> Example:
    """Make (line, blurred, sharp), uint8 [h w 3]: a random square, or the whole photograph, reflected beyond its edges for the blur.

    Raises `InputError` for a photograph that cannot be read.
    """
    photo = read_rgb(making.folder / line["photo"])
    place_key, blur_key = jax.random.split(_key(making.seed, line["photo"], line["copy"]))
    height, width = photo.shape[:2]
    top, left, side = 0, 0, making.crop
    if side is not None:
        down, right = np.asarray(jax.random.uniform(place_key, (2,))).tolist()
        top, left, height, width = int(down * (height - side + 1)), int(right * (width - side + 1)), side, side
    tall, wide = (extent if side is not None else -(-extent // SIZE_CLASS) * SIZE_CLASS for extent in (height, width))
    margin = making.recipe.margin
    rows = _mirror(np.arange(top - margin, top + tall + margin), photo.shape[0])
    columns = _mirror(np.arange(left - margin, left + wide + margin), photo.shape[1])
    blurred, sharp = _synthesise(blur_key, jnp.asarray(photo[rows][:, columns]), making.recipe)
    return line, _to_uint8(blurred)[:height, :width], _to_uint8(sharp)[:height, :width]


def describe(making: PhotoPairs, photos: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the settings that determine each pair, and with `photos` also the set of pairs."""
    source: dict[str, Any] = {"source": making.folder.resolve().name}
    if photos is not None:
        source |= {"photos": len(photos), "bytes": sum((making.folder / photo).stat().st_size for photo in photos)}
    values = {"pairs_per_photo": making.copies, "crop": making.crop or "whole", "seed": making.seed}
    return {"made_by": "drsn-jax prepare photos", **source, **values, **making.recipe._asdict()}


def _stem(photo: str) -> str:
    return str(Path(photo).with_suffix("").as_posix())


def _key(seed: int, photo: str, copy: int) -> PRNGKeyArray:
    """Fold 64 bits of the relative name, then the copy, into the seed."""
    digest = hashlib.sha256(photo.encode()).digest()
    key = jax.random.key(seed)
    for number in (*(int.from_bytes(digest[i : i + 4], "big") for i in (0, 4)), copy):
        key = jax.random.fold_in(key, number)
    return key


def _mirror(index: np.ndarray, size: int) -> np.ndarray:
    """Reflect indices beyond 0 and size - 1 back inside, repeatedly if necessary."""
    period = max(2 * size - 2, 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)


def _to_uint8(image: jax.Array) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(np.asarray(image) * 255).astype(np.uint8)
