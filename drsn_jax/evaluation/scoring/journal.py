"""The scores of an unfinished evaluation, one line per image. After a crash the evaluation resumes from them.

The first line describes the evaluation. Each further line is a score, written in one call after its image. A line that was
truncated by a kill is dropped, and its image scored again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from drsn_jax.evaluation.scoring.scores import ImageScore
from drsn_jax.system.errors import InputError
from drsn_jax.system.growing import Growing, read_grown
from drsn_jax.system.paths import AnyPath

JOURNAL_FILE = "scores.jsonl"


class Journal:
    """An open journal: `scores` are those of earlier runs and of this one, by the image's name."""

    def __init__(self, path: AnyPath, scores: dict[str, ImageScore], *, content: bytes):
        """Open the file with `content` for appending."""
        self.path, self.scores = path, scores
        self._file = Growing(path, content)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, score: ImageScore) -> None:
        """Store a score: it is on disk when this returns (except for a power cut)."""
        self._file.append(_line(asdict(score)))
        self.scores[score.name] = score


def open_journal(output: AnyPath, *, settings: Mapping[str, Any]) -> Journal:
    """Open the journal of a folder, new or with the scores of an interrupted evaluation with the same settings.

    Raises InputError, naming the difference, if the folder contains a journal of other settings; OSError if it cannot be written.
    """
    path = output / JOURNAL_FILE
    plain = json.loads(json.dumps(settings))
    stored, scores, whole = _read(path)
    if stored is None:
        return Journal(path, {}, content=_line(plain))
    if stored != plain:
        raise InputError(
            f"{output} holds an unfinished evaluation with other settings ({name_difference(stored, plain)}); repeat those to resume,"
            " choose another folder, or start again with --overwrite."
        )
    return Journal(path, scores, content=whole)


def name_difference(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Name the first setting that differs, with both values."""
    key = next(key for key in sorted(stored.keys() | given.keys()) if stored.get(key) != given.get(key))
    if key == "files":
        return "the files have changed, or are different ones"
    before, now = (str(values.get(key))[:80] for values in (stored, given))
    return f"{key}: {before}, now {now}"


def _read(path: AnyPath) -> tuple[dict[str, Any] | None, dict[str, ImageScore], bytes]:
    """Read the settings (None without any), the scores, and the complete lines."""
    contents = read_grown(path)
    whole = contents[: contents.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        if lines and not isinstance(lines[0], dict):
            raise TypeError("no settings in its first line")
        scores = [ImageScore(**line) for line in lines[1:]]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it, or start again with --overwrite.") from error
    return (lines[0] if lines else None), {score.name: score for score in scores}, whole


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, allow_nan=False) + "\n").encode()
