"""Append-only text files on disks and in buckets. Each appended line survives a kill."""

import re
from pathlib import Path

from drsn_jax.system.files import write_atomically
from drsn_jax.system.paths import AnyPath, entries, explaining

PIECE_LINES = 100  # per object; the whole object is rewritten with each line


class Growing:
    """A file for appending lines. On a disk each line is one write. Buckets have no append.

    In a bucket the lines lie in objects beside the file, named NAME.part-OFFSET. Each new line rewrites the newest piece. Pieces are
    merged into the file when it is closed, or when it is opened after a kill. OFFSET is the position of the piece in the file, so a piece
    that was already merged is recognised and skipped.
    """

    def __init__(self, path: AnyPath, content: bytes):
        """Replace the file by `content` and open it for appending. Raises OSError."""
        self._path, self._file = path, None
        if not isinstance(path, Path):
            self._content, self._piece = content, b""
            _rewrite(path, content)
            return
        if read_grown(path) != content or not path.exists():
            write_atomically(path, content)
        self._file = path.open("ab", buffering=0)

    def append(self, line: bytes) -> None:
        """Append one line, which must end with a line break. It is stored when this returns (except for a power cut). Raises OSError."""
        if self._file:
            self._file.write(line)
            return
        self._piece += line
        write_atomically(_piece_path(self._path, len(self._content)), self._piece)
        if self._piece.count(b"\n") >= PIECE_LINES:
            self._content, self._piece = self._content + self._piece, b""

    def close(self) -> None:
        """Merge all pieces into one file. Raises OSError."""
        if self._file:
            self._file.close()
        else:
            _rewrite(self._path, self._content + self._piece)


def read_grown(path: AnyPath) -> bytes:
    """Return all lines of a file, in pieces or not; an empty text if it does not exist."""
    content = path.read_bytes() if path.exists() else b""
    for offset, piece in _pieces(path):
        if offset == len(content):
            content += piece.read_bytes()
    return content


def discard(path: AnyPath) -> None:
    """Remove a file and its pieces, if they exist."""
    for _, piece in _pieces(path):
        piece.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _rewrite(path: AnyPath, content: bytes) -> None:
    """Write the file without pieces. After each step `read_grown` still returns all lines."""
    pieces = _pieces(path)
    if pieces:
        write_atomically(path, read_grown(path))
        with explaining(path):
            for _, piece in pieces:
                piece.unlink(missing_ok=True)
    write_atomically(path, content)


def _pieces(path: AnyPath) -> list[tuple[int, AnyPath]]:
    """Return the pieces as (offset, path), in order."""
    if isinstance(path, Path):
        return []
    with explaining(path):
        found = [(re.fullmatch(rf"{re.escape(path.name)}\.part-(\d+)", piece.name), piece) for piece in entries(path.parent)]
    return sorted((int(match[1]), piece) for match, piece in found if match)


def _piece_path(path: AnyPath, offset: int) -> AnyPath:
    return path.with_name(f"{path.name}.part-{offset:012d}")
