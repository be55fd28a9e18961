"""The images of a folder: one rule of what is an image's name and of what is hidden, for every verb."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from drsn_jax.data.images.photo import SUFFIXES, quoted, reason
from drsn_jax.system.errors import InputError

IMAGE_SUFFIXES = tuple(SUFFIXES)
# Folders that operating systems and network drives add: thumbnails, waste baskets, snapshots, what fsck saved.
_OF_SYSTEMS = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "@tmp"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found"),
}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over: hidden ones (.Trash, ._a.jpg, __MACOSX), and those that systems add."""
    return name.startswith((".", "__")) or name.lower() in _OF_SYSTEMS


def is_image_name(name: str | Path) -> bool:
    """Whether the name ends like an image's, in capitals or not."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def walk_visible(folder: Path, *, on_error: Callable[[OSError], object] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` without what is hidden, sorted: (folder, names of its folders, names of its files) for each folder below `folder`.

    A file is a regular one, or a link that leads nowhere: whoever reads it says so. Links to folders are not followed. The caller may
    take names out of the list of folders. Raises InputError for a folder that cannot be searched, unless `on_error` takes the error.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{quoted(error.filename)} cannot be searched ({reason(error)}); check its permissions.") from error

    for name, folders, files in os.walk(folder, onerror=on_error or refuse):
        here = Path(name)
        folders[:] = sorted(sub for sub in folders if not is_hidden(sub))
        yield here, folders, sorted(file for file in files if not file.startswith(".") and _is_file(here / file))


def list_images(folder: Path, *, deep: bool = True) -> list[Path]:
    """The images of a folder sorted by their paths, at any depth or (`deep=False`) directly in it: files alone, none that is hidden.

    Raises InputError for a folder that cannot be searched.
    """
    found: list[Path] = []
    for here, folders, files in walk_visible(folder):
        found += [here / file for file in files if is_image_name(file)]
        if not deep:
            folders.clear()
    return sorted(found)


def name_images(folder: Path) -> dict[str, Path]:
    """Relative name without suffix -> path, of all images below a folder. Raises InputError where two differ by their suffix alone."""
    images: dict[str, Path] = {}
    for path in list_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in images:
            raise InputError(f"{quoted(images[name])} and {quoted(path)} have the same name but for the suffix; keep one of them")
        images[name] = path
    return images


def _is_file(path: Path) -> bool:
    return path.is_file() or path.is_symlink()
