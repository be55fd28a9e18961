"""Local paths and paths in a bucket (gs://, s3://). Any other address is refused in one line.

A bucket has no folders, no append, no rename and no lock. So an object is written whole (`system.files`). A growing file is stored in
pieces (`system.growing`). A lease with an expiry serves as the lock (`system.leases`). A checkpoint counts once its commit file exists
(Orbax's own method).
"""

import contextlib
import errno
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from drsn_jax.system.errors import InputError, first_line

AnyPath = Path | epath.Path
"""A local path, or one in a bucket."""

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # a single letter is a Windows drive
_EXTRA = "pip install 'drsn-jax[cloud]'"


class BucketError(InputError, OSError):
    """A refusal of a bucket, or a network fault. The message names the path."""

    def __init__(self, path: AnyPath, error: BaseException):
        """Make the error from the exception of the bucket's library."""
        super().__init__(f"{path}: {first_line(error)}; check the bucket's name, the credentials and the network")
        self.errno, self.strerror = errno.EIO, first_line(error)

    def __str__(self) -> str:
        return self.plain


def scheme_of(text: str | os.PathLike[str]) -> str | None:
    """Return the scheme of an address, such as gs; None for a local path."""
    match = _ADDRESS.match(os.fspath(text))
    return match[1] if match else None


def is_bucket(path: AnyPath) -> bool:
    """Check whether a path lies in a bucket."""
    return scheme_of(path) is not None


def local_path(text: str | os.PathLike[str], *, instead: str = "copy it to this machine and give its path here") -> Path:
    """Return a local path with ~ expanded, which the shell leaves as it is in --workdir=~/runs. Raises InputError for an address."""
    if scheme := scheme_of(text):
        raise InputError(f"{os.fspath(text)} is an address ({scheme}://), and a path on this machine is needed; {instead}.")
    return Path(text).expanduser()


def local_paths(text: str) -> list[Path]:
    """Split a list with commas into local paths. If the whole text is an existing path, it is the only one.

    Raises InputError for an address.
    """
    whole = local_path(text)
    return [whole] if whole.exists() else [local_path(part.strip()) for part in text.split(",")]


def any_path(text: str | os.PathLike[str]) -> AnyPath:
    """Return a local path or one in a bucket.

    Raises InputError for any other address, for a bucket without a path, for a pattern character, and for a missing package.
    """
    address = os.fspath(text)
    if isinstance(text, Path):  # a Path has already turned gs:// into gs:/
        address = re.sub(rf"^({'|'.join(PACKAGES)}):/(?=[^/])", r"\1://", address)
    scheme = scheme_of(address)
    if scheme is None:
        return Path(address).expanduser()
    if scheme not in PACKAGES:
        raise InputError(f"{address} is an address that cannot be opened ({scheme}://); give a path, gs://BUCKET/PATH or s3://BUCKET/PATH.")
    if not address.removeprefix(f"{scheme}://").strip("/").partition("/")[2]:
        raise InputError(f"{address} names no place in a bucket; write {scheme}://BUCKET/PATH.")
    if found := set(address) & set("*?[]#"):
        raise InputError(f"{address} contains {' '.join(sorted(found))}, a pattern in the libraries for buckets; choose a name without it.")
    missing = [name for name in ("fsspec", PACKAGES[scheme]) if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{address} needs the package {missing[-1]}, which is not installed; {_EXTRA}.")
    _choose_fsspec()
    return epath.Path(address.rstrip("/"))


def _choose_fsspec() -> None:
    """Make etils use fsspec. By default it takes TensorFlow if installed, which needs 10 s to import and does not support s3://.

    Listings are not cached, because other processes write to the bucket too.
    """
    import fsspec.config
    from etils.epath import gpath

    if "EPATH_USE_TF" not in os.environ:
        os.environ["EPATH_USE_TF"] = "false"
        gpath._is_tf_installed.cache_clear()  # Orbax may have filled this cache already; etils has no public function for it
    for protocol in ("gs", "gcs", "s3"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def absolute(path: AnyPath) -> AnyPath:
    """Return the absolute path. Bucket paths are absolute already."""
    return path if is_bucket(path) else Path(os.path.realpath(path))  # `Path.resolve` raises on a link that points at itself


@contextlib.contextmanager
def explaining(path: AnyPath) -> Iterator[None]:
    """Turn any error about a bucket path inside the block into BucketError. InputError, and errors of local paths, pass unchanged."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # three packages, each with its own network and credential errors
        if not is_bucket(path):
            raise
        raise BucketError(path, error) from error


def check_bucket(path: AnyPath, *, write: bool = False) -> None:
    """Raise BucketError early if a bucket cannot be reached or, with `write`, cannot be written."""
    if not is_bucket(path):
        return
    with explaining(path):
        files, root = filesystem(path)
        files.ls(root.partition("/")[0])  # not `exists`, which returns False for a bucket that cannot be reached
        if write:
            probe = f"{root}/.probe-{os.urandom(8).hex()}"
            files.pipe_file(probe, b"")
            files.rm_file(probe)


def filesystem(path: AnyPath) -> tuple[Any, str]:
    """Return fsspec's file system for a path in a bucket, and BUCKET/PATH."""
    import fsspec.core

    return fsspec.core.url_to_fs(os.fspath(path))


def entries(folder: AnyPath) -> list[Any]:
    """Return the entries of a folder; empty if it does not exist."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def size_of(path: AnyPath) -> int:
    """Return the size in bytes of a file, or of all files below a folder."""
    if not isinstance(path, Path):
        files, root = filesystem(path)
        return files.du(root)
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def download(source: AnyPath, target: Path) -> None:
    """Copy everything below `source`, in a bucket, into the folder `target`. Raises BucketError."""
    with explaining(source):
        files, root = filesystem(source)
        for key in files.find(root):
            place = target / key.removeprefix(f"{root}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(key, str(place))


def upload(source: Path, target: AnyPath, *, commit: str | None = None) -> None:
    """Copy all files below a folder to `target`, in a bucket. The object `commit`, if given, is written last."""
    with explaining(target):
        files, root = filesystem(target)
        for place in sorted(place for place in source.rglob("*") if place.is_file() and place != source / (commit or "")):
            files.put_file(str(place), f"{root}/{place.relative_to(source).as_posix()}")
        if commit:
            files.pipe_file(f"{root}/{commit}", b"\n")


def remove_tree(path: AnyPath, *, first: str | None = None) -> None:
    """Remove everything below a path in a bucket, the object `first` before the others."""
    with explaining(path):
        files, root = filesystem(path)
        keys = files.find(root)
        for key in sorted(keys, key=lambda key: key != f"{root}/{first}"):
            files.rm_file(key)
