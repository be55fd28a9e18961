"""A downloaded data set, a folder or .zip files, as one list of files. Archives are read in place, never extracted."""

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO

from drsn_jax.data.images.listing import is_hidden, walk_visible
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import local_path

# Top folders with a meaning, which are kept in the names.
_MEANINGFUL = ("train", "test", "val", "valid", "validation", "GT", "ground_truth", "blur", "blur_gamma", "sharp", "gt")
_MEANINGFUL += ("input", "target", "A", "B", "real", "uniform", "nonuniform")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)  # RuntimeError: a password


@dataclass(frozen=True)
class TreeFile:
    """One file of a `Tree`: `where` is its path, or its name inside `archive`. It can replace a path to an image.

    `label` is its name for messages and metadata, starting at the folder or archive, so that it contains no path of this machine.
    """

    where: str
    num_bytes: int
    label: str
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)

    def open(self, mode: str = "rb", /) -> IO[bytes]:
        """Open a binary stream; data of archives is decompressed as it is read. Raises `InputError` naming the file."""
        if self.archive is None:
            return Path(self.where).open("rb")
        try:
            return self.archive.open(self.where)
        except _DAMAGE as error:
            raise InputError(f"{self} cannot be read ({' '.join(str(error).split())}); download the archive again") from error

    def read_bytes(self) -> bytes:
        """Read the file. Raises `InputError` naming it if it is damaged, which the checksums of archives reveal."""
        try:
            with self.open() as stream:
                return stream.read()
        except _DAMAGE as error:
            raise InputError(f"{self} is damaged ({' '.join(str(error).split())}); download it again") from error

    def crc32(self) -> int:
        """Return the CRC-32 of the content, which archives store. Raises `InputError` naming the file if it cannot be read."""
        return zlib.crc32(self.read_bytes()) if self.archive is None else self.archive.getinfo(self.where).CRC

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Tree:
    """The files of one download, by relative posix names in sorted order; `name` is that of the folder or archive."""

    name: str
    files: Mapping[str, TreeFile]

    def read_bytes(self, name: str) -> bytes:
        """Read a file. Raises `InputError` naming it if it is missing or damaged."""
        if name not in self.files:
            raise InputError(f"{self.name} has no file {name}; it holds {len(self.files)} files: {first_three(list(self.files))}")
        return self.files[name].read_bytes()


def open_tree(path: str | os.PathLike[str], *, archives: Sequence[str] = ()) -> Tree:
    """List the files below a folder, or of a .zip file. Hidden files and system folders are skipped (`is_hidden`).

    The .zip files directly in a folder are replaced by their contents if they match one of the `archives` patterns. An extracted copy of a
    file takes precedence. A single top folder around everything is removed from the names, unless its name has a meaning (train, blur,
    ...). Raises `InputError` for a missing path, and for a file that is not a .zip file or is damaged.
    """
    path = local_path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder or the .zip file of the data set")
    if not path.is_dir():
        files = _files_of_archive(path)
    else:
        files = _files_of_folder(path)
        found = [name for name in files if "/" not in name and any(fnmatch(name, pattern) for pattern in archives)]
        extracted = {name: file for name, file in files.items() if name not in found}
        files = {}
        for name in found:
            files |= _files_of_archive(path / name)
        files |= extracted
    return Tree(path.resolve().name or "/", dict(sorted(_look_through(files).items())))


def first_three(names: Sequence[str]) -> str:
    """Format 'a, b, c, ...' from a sequence of names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _files_of_folder(folder: Path) -> dict[str, TreeFile]:
    files = {}
    for here, _, names in walk_visible(folder):
        for path in (here / name for name in names):
            if path.is_file():
                relative = path.relative_to(folder).as_posix()
                files[relative] = TreeFile(str(path), path.stat().st_size, f"{folder.resolve().name}/{relative}")
    return files


def _starts_as_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _files_of_archive(path: Path) -> dict[str, TreeFile]:
    """List the files. The archive stays open as long as one of them exists."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        if path.stat().st_size == 0:
            trouble = "is empty (0 bytes)"
        elif _starts_as_zip(path):
            trouble = "is a damaged or half-downloaded .zip file"
        else:
            trouble = "is not a .zip file; unpack other archives and give the folder"
        raise InputError(f"{path} {trouble}; download it again or give the folder of the data set") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read (permission denied); change its permissions") from error
    files = {}
    for info in archive.infolist():
        name = PurePosixPath(info.filename.replace("\\", "/")).as_posix()
        if not info.is_dir() and not any(is_hidden(part) for part in name.split("/")):
            files[name] = TreeFile(info.filename, info.file_size, f"{path.name}:{name}", archive)
    return files


def _look_through(files: dict[str, TreeFile]) -> dict[str, TreeFile]:
    tops = {name.split("/")[0] for name in files}
    top = min(tops, default="")
    if len(tops) != 1 or top in files or top in _MEANINGFUL:
        return files
    return _look_through({name.removeprefix(f"{top}/"): file for name, file in files.items()})
