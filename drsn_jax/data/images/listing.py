"""The images of a folder: one rule for image names and hidden files, for every verb."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from drsn_jax.data.images.photo import SUFFIXES, quoted, reason
from drsn_jax.system.errors import InputError

IMAGE_SUFFIXES = tuple(SUFFIXES)
# Folders of operating systems and network drives: thumbnails, recycle bins, snapshots, files recovered by fsck.
_OF_SYSTEMS = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", "@tmp"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found"),
}


def is_hidden(name: str) -> bool:
    """Check whether a file or folder is skipped: hidden ones (.Trash, ._a.jpg, __MACOSX), and system folders."""
    return name.startswith((".", "__")) or name.lower() in _OF_SYSTEMS


def is_image_name(name: str | Path) -> bool:
    """Check whether the name has the suffix of an image, in upper or lower case."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def walk_visible(folder: Path, *, on_error: Callable[[OSError], object] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk as `os.walk`, sorted and without hidden entries: (folder, names of its folders, names of its files) for each folder.

    Files are regular files and broken links, which the reader reports. Links to folders are not followed. The caller may
    remove names from the list of folders. Raises InputError for an unreadable folder, unless `on_error` handles the error.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{quoted(error.filename)} cannot be searched ({reason(error)}); check its permissions.") from error

    for name, folders, files in os.walk(folder, onerror=on_error or refuse):
        here = Path(name)
        folders[:] = sorted(sub for sub in folders if not is_hidden(sub))
        yield here, folders, sorted(file for file in files if not file.startswith(".") and _is_file(here / file))


def list_images(folder: Path, *, deep: bool = True) -> list[Path]:
    """List the images of a folder, sorted by path, at any depth or (`deep=False`) only directly in it; hidden files are skipped.

    Raises InputError for an unreadable folder.
    """
    found: list[Path] = []
    for here, folders, files in walk_visible(folder):
        found += [here / file for file in files if is_image_name(file)]
        if not deep:
            folders.clear()
    return sorted(found)


def name_images(folder: Path) -> dict[str, Path]:
    """Map relative names without suffix to paths, for all images below a folder. Raises InputError if two differ only in the suffix."""
    images: dict[str, Path] = {}
    for path in list_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in images:
            raise InputError(f"{quoted(images[name])} and {quoted(path)} have the same name except for the suffix; keep one of them")
        images[name] = path
    return images


def _is_file(path: Path) -> bool:
    return path.is_file() or path.is_symlink()
