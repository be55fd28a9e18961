"""Streaming parser of a form with a file (multipart/form-data, RFC 7578), as browsers without JavaScript and `curl -F` send it."""

from collections.abc import Callable
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

_FIELD_BYTES = 100  # of a field other than the file
_FORM = b"multipart/form-data"


class Form:
    """The parts of one form. The file's bytes are passed to `write` as they arrive; `fields` holds the others by name."""

    def __init__(self, boundary: bytes, *, write: Callable[[bytes], object]):
        """Use the boundary in the request's Content-Type."""
        self.fields: dict[str, str] = {}
        self._write, self._files = write, 0
        self._headers: list[list[bytes]] = []
        self._name, self._is_file = "", False
        callbacks: Any = {
            "on_part_begin": self._headers.clear,
            "on_header_begin": lambda: self._headers.append([b"", b""]),
            "on_header_field": lambda data, start, end: self._add(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add(1, data[start:end]),
            "on_headers_finished": self._begin,
            "on_part_data": lambda data, start, end: self._take(data[start:end]),
        }
        self._parser = MultipartParser(boundary, callbacks)

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body. Raises HTTPException 400 for a malformed form, for two files, and for a long field."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise HTTPException(400, "The form cannot be read; send it as multipart/form-data.") from error

    def _add(self, side: int, text: bytes) -> None:
        self._headers[-1][side] += text

    def _begin(self) -> None:
        headers = {name.lower(): value for name, value in self._headers}
        _, options = parse_options_header(headers.get(b"content-disposition", b""))
        self._name, self._is_file = options.get(b"name", b"").decode(errors="replace"), b"filename" in options
        self._files += self._is_file
        if self._files > 1:
            raise HTTPException(400, "The form holds more than one file; send one photograph at a time.")
        if not self._is_file:
            self.fields[self._name] = ""

    def _take(self, data: bytes) -> None:
        if self._is_file:
            self._write(data)
            return
        self.fields[self._name] += data.decode(errors="replace")
        if len(self.fields[self._name]) > _FIELD_BYTES:
            raise HTTPException(400, f"The field {self._name[:100]!r} of the form is too long.")


def open_form(request: Request, *, write: Callable[[bytes], object]) -> Form | None:
    """Make the parser for a request's form; None if the body is the file itself."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != _FORM:
        return None
    if not options.get(b"boundary"):
        raise HTTPException(400, "The form names no boundary; send it as multipart/form-data.")
    return Form(options[b"boundary"], write=write)
