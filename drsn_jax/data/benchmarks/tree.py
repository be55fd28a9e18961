"""A data set as it was downloaded, a folder or .zip files, as one list of files. Archives are read where they are, never extracted."""

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

# Top folders that mean something and are not looked through.
_MEANINGFUL = ("train", "test", "val", "valid", "validation", "GT", "ground_truth", "blur", "blur_gamma", "sharp", "gt")
_MEANINGFUL += ("input", "target", "A", "B", "real", "uniform", "nonuniform")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)  # RuntimeError: a password


@dataclass(frozen=True)
class TreeFile:
    """One file of a `Tree`: `where` is its path, or with an `archive` its name in there; stands wherever an image's path may.

    `label` names it to people, from the folder or archive on: it is also stored, and must not tell about this machine.
    """

    where: str
    num_bytes: int
    label: str
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)

    def open(self, mode: str = "rb", /) -> IO[bytes]:
        """A binary stream; from an archive only what is read gets decompressed. Raises `InputError` naming the file."""
        if self.archive is None:
            return Path(self.where).open("rb")
        try:
            return self.archive.open(self.where)
        except _DAMAGE as error:
            raise InputError(f"{self} cannot be read ({' '.join(str(error).split())}); download the archive again") from error

    def read_bytes(self) -> bytes:
        """Raises `InputError` naming the file where it is damaged: archives carry checksums."""
        try:
            with self.open() as stream:
                return stream.read()
        except _DAMAGE as error:
            raise InputError(f"{self} is damaged ({' '.join(str(error).split())}); download it again") from error

    def crc32(self) -> int:
        """The CRC-32 of its contents; an archive's directory says it. Raises `InputError` naming the file where it cannot be read."""
        return zlib.crc32(self.read_bytes()) if self.archive is None else self.archive.getinfo(self.where).CRC

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Tree:
    """The files of one download, by relative posix names in sorted order; `name` is that of the folder or archive."""

    name: str
    files: Mapping[str, TreeFile]

    def read_bytes(self, name: str) -> bytes:
        """What the file holds; raises `InputError` naming it where there is none or it is damaged."""
        if name not in self.files:
            raise InputError(f"{self.name} has no file {name}; it holds {len(self.files)} files: {first_three(list(self.files))}")
        return self.files[name].read_bytes()


def open_tree(path: str | os.PathLike[str], *, archives: Sequence[str] = ()) -> Tree:
    """The files below a folder, or of a .zip file. Hidden ones, and folders that systems add, are passed over (`is_hidden`).

    .zip files directly in a folder whose names fit one of the `archives` patterns stand for their contents; where the same file
    is there extracted too, that one counts. A single top folder around everything is looked through, unless its name means
    something (train, blur, ...). Raises `InputError` for a missing path, and a file that is no .zip or a damaged one.
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
    """'a, b, c, ...' of a sequence of names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _files_of_folder(folder: Path) -> dict[str, TreeFile]:
    files = {}
    for here, _, names in walk_visible(folder):
        for path in (here / name for name in names):
            if path.is_file():
                relative = path.relative_to(folder).as_posix()
                files[relative] = TreeFile(str(path), path.stat().st_size, f"{folder.resolve().name}/{relative}")
    return files


def _files_of_archive(path: Path) -> dict[str, TreeFile]:
    """The archive stays open for as long as any of its files is held."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        if path.stat().st_size == 0:
            trouble = "is empty (0 bytes)"
        elif path.open("rb").read(2) == b"PK":
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
