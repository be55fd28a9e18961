"""Paths as people type them: local, or in a bucket (gs://, s3://); any other address is refused in one line.

A bucket has no folders to make, no append, no rename and no lock. What stands in their place: an object is written whole
(`system.files`), a file that grows lies there in pieces (`system.growing`), a lease with an expiry is the lock (`system.leases`), and a
checkpoint counts once its commit file is there (Orbax's own way).
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
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter is a drive of Windows
_EXTRA = "pip install 'drsn-jax[cloud]'"


class BucketError(InputError, OSError):
    """What a bucket refuses, or its network: the message names the path."""

    def __init__(self, path: AnyPath, error: BaseException):
        """Of what the bucket's library raised."""
        super().__init__(f"{path}: {first_line(error)}; check the bucket's name, the credentials and the network")
        self.errno, self.strerror = errno.EIO, first_line(error)

    def __str__(self) -> str:
        return self.plain


def scheme_of(text: str | os.PathLike[str]) -> str | None:
    """The scheme of an address, such as gs; None of a local path."""
    match = _ADDRESS.match(os.fspath(text))
    return match[1] if match else None


def is_bucket(path: AnyPath) -> bool:
    """Whether a path lies in a bucket."""
    return scheme_of(path) is not None


def local_path(text: str | os.PathLike[str], *, instead: str = "copy it to this machine and give its path here") -> Path:
    """A local path; the shell leaves the ~ of --workdir=~/runs as it is. Raises InputError for any address."""
    if scheme := scheme_of(text):
        raise InputError(f"{os.fspath(text)} is an address ({scheme}://), and a path on this machine is needed; {instead}.")
    return Path(text).expanduser()


def local_paths(text: str) -> list[Path]:
    """The local paths of a list with commas between them; a text that is itself the name of something that is there is one path.

    Raises InputError for any address.
    """
    whole = local_path(text)
    return [whole] if whole.exists() else [local_path(part.strip()) for part in text.split(",")]


def any_path(text: str | os.PathLike[str]) -> AnyPath:
    """A local path or one in a bucket.

    Raises InputError for other addresses, one without a place in a bucket or with signs of a pattern, and where a package is missing.
    """
    address = os.fspath(text)
    if isinstance(text, Path):  # which makes one slash of two
        address = re.sub(rf"^({'|'.join(PACKAGES)}):/(?=[^/])", r"\1://", address)
    scheme = scheme_of(address)
    if scheme is None:
        return Path(address).expanduser()
    if scheme not in PACKAGES:
        raise InputError(f"{address} is an address that cannot be opened ({scheme}://); give a path, gs://BUCKET/PATH or s3://BUCKET/PATH.")
    if not address.removeprefix(f"{scheme}://").strip("/").partition("/")[2]:
        raise InputError(f"{address} names no place in a bucket; write {scheme}://BUCKET/PATH.")
    if found := set(address) & set("*?[]#"):
        raise InputError(
            f"{address} has {' '.join(sorted(found))} in it, which the libraries for buckets take for patterns; choose a name without."
        )
    missing = [name for name in ("fsspec", PACKAGES[scheme]) if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{address} takes the package {missing[-1]}, which is not installed; {_EXTRA}.")
    _choose_fsspec()
    return epath.Path(address.rstrip("/"))


def _choose_fsspec() -> None:
    """etils would take TensorFlow where that is installed, which takes 10 s to import and knows no s3://.

    Other processes write to a bucket too: what was listed once is not to be believed later.
    """
    import fsspec.config
    from etils.epath import gpath

    if "EPATH_USE_TF" not in os.environ:
        os.environ["EPATH_USE_TF"] = "false"
        gpath._is_tf_installed.cache_clear()  # what Orbax may have asked already; no public name does this
    for protocol in ("gs", "gcs", "s3"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def absolute(path: AnyPath) -> AnyPath:
    """The absolute path; one in a bucket is."""
    return path if is_bucket(path) else Path(os.path.realpath(path))  # `Path.resolve` raises on a link that points at itself


@contextlib.contextmanager
def explaining(path: AnyPath) -> Iterator[None]:
    """Raises BucketError for whatever goes wrong with a path in a bucket inside the block; InputError, and all of local paths, passes."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the libraries raise their own, the network's and the credentials' of three packages
        if not is_bucket(path):
            raise
        raise BucketError(path, error) from error


def check_bucket(path: AnyPath, *, write: bool = False) -> None:
    """Raises BucketError where a path lies in a bucket that cannot be reached, or written with `write`: known before the slow part."""
    if not is_bucket(path):
        return
    with explaining(path):
        files, root = filesystem(path)
        files.ls(root.partition("/")[0])  # not `exists`, for which a bucket that is out of reach is not there
        if write:
            probe = f"{root}/.probe-{os.urandom(8).hex()}"
            files.pipe_file(probe, b"")
            files.rm_file(probe)


def filesystem(path: AnyPath) -> tuple[Any, str]:
    """fsspec's file system of a path in a bucket, and BUCKET/PATH."""
    import fsspec.core

    return fsspec.core.url_to_fs(os.fspath(path))


def entries(folder: AnyPath) -> list[Any]:
    """What lies in a folder; nothing where there is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def size_of(path: AnyPath) -> int:
    """The bytes of a file, or of all files below a folder."""
    if not isinstance(path, Path):
        files, root = filesystem(path)
        return files.du(root)
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def download(source: AnyPath, target: Path) -> None:
    """Copies all that is below `source`, in a bucket, into the folder `target`. Raises BucketError."""
    with explaining(source):
        files, root = filesystem(source)
        for key in files.find(root):
            place = target / key.removeprefix(f"{root}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(key, str(place))


def upload(source: Path, target: AnyPath, *, commit: str | None = None) -> None:
    """Copies all files below a folder to below `target`, in a bucket; writes the object `commit`, which it may have, when all are there."""
    with explaining(target):
        files, root = filesystem(target)
        for place in sorted(place for place in source.rglob("*") if place.is_file() and place != source / (commit or "")):
            files.put_file(str(place), f"{root}/{place.relative_to(source).as_posix()}")
        if commit:
            files.pipe_file(f"{root}/{commit}", b"\n")


def remove_tree(path: AnyPath, *, first: str | None = None) -> None:
    """Removes all that is below a path in a bucket, the object `first` before the others."""
    with explaining(path):
        files, root = filesystem(path)
        keys = files.find(root)
        for key in sorted(keys, key=lambda key: key != f"{root}/{first}"):
            files.rm_file(key)
