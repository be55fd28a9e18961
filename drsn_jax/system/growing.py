"""Files that grow line by line, on disks and in buckets: what was appended is kept whatever ends the process."""

import re
from pathlib import Path

from drsn_jax.system.files import write_atomically
from drsn_jax.system.paths import AnyPath, entries, explaining

PIECE_LINES = 100  # of one object, which is written whole with each line


class Growing:
    """A file to append lines to. On a disk each is one write; a bucket has no append.

    There the lines lie in objects beside the file, NAME.part-OFFSET, which are written whole with each line, and join the file when
    it is closed, or opened after a kill. The offset is where a piece begins: one that has joined already counts no more.
    """

    def __init__(self, path: AnyPath, content: bytes):
        """Writes `content`, in place of whatever is there, and opens the file to append to it. Raises OSError."""
        self._path, self._file = path, None
        if not isinstance(path, Path):
            self._content, self._piece = content, b""
            _rewrite(path, content)
            return
        if read_grown(path) != content or not path.exists():
            write_atomically(path, content)
        self._file = path.open("ab", buffering=0)

    def append(self, line: bytes) -> None:
        """Keeps a line, which ends with a line break: it is in the file when this returns (but for a power cut). Raises OSError."""
        if self._file:
            self._file.write(line)
            return
        self._piece += line
        write_atomically(_piece_path(self._path, len(self._content)), self._piece)
        if self._piece.count(b"\n") >= PIECE_LINES:
            self._content, self._piece = self._content + self._piece, b""

    def close(self) -> None:
        """Leaves one file. Raises OSError."""
        if self._file:
            self._file.close()
        else:
            _rewrite(self._path, self._content + self._piece)


def read_grown(path: AnyPath) -> bytes:
    """All lines of a file, in pieces or not; none where it is not there."""
    content = path.read_bytes() if path.exists() else b""
    for offset, piece in _pieces(path):
        if offset == len(content):
            content += piece.read_bytes()
    return content


def discard(path: AnyPath) -> None:
    """Removes a file, in pieces or not, if it is there."""
    for _, piece in _pieces(path):
        piece.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _rewrite(path: AnyPath, content: bytes) -> None:
    """The file without pieces. Each step leaves a state in which `read_grown` gives all lines."""
    pieces = _pieces(path)
    if pieces:
        write_atomically(path, read_grown(path))
        with explaining(path):
            for _, piece in pieces:
                piece.unlink(missing_ok=True)
    write_atomically(path, content)


def _pieces(path: AnyPath) -> list[tuple[int, AnyPath]]:
    """(offset, piece) in order."""
    if isinstance(path, Path):
        return []
    with explaining(path):
        found = [(re.fullmatch(rf"{re.escape(path.name)}\.part-(\d+)", piece.name), piece) for piece in entries(path.parent)]
    return sorted((int(match[1]), piece) for match, piece in found if match)


def _piece_path(path: AnyPath, offset: int) -> AnyPath:
    return path.with_name(f"{path.name}.part-{offset:012d}")
