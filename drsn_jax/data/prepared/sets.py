"""Prepared data sets by the name that users write: NAME[/CONFIG][:SPLIT], such as gopro/linear:test."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from drsn_jax.data.benchmarks import CONFIGS, FOLDERS, MADE
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import local_path

_SPEC = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(?:/(?P<config>[A-Za-z0-9][\w.-]*))?(?::(?P<split>[a-z][a-z0-9_]*))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class PreparedSet(NamedTuple):
    """One prepared data set: `title` is NAME[/CONFIG], `metadata` that of `manifest.describe` and the preparation."""

    title: str
    folder: Path
    metadata: Mapping[str, Any]


def default_data_dir() -> Path:
    """Return the folder of TensorFlow Datasets: $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return local_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", instead="set TFDS_DATA_DIR to one, or give --data-dir")


def version_folder(data_dir: Path, title: str) -> Path | None:
    """Return the folder of the newest complete version of NAME[/CONFIG], or None."""
    below = (data_dir / title).iterdir() if (data_dir / title).is_dir() else ()
    found = [path for path in below if _VERSION.fullmatch(path.name) and (path / "metadata.json").is_file()]
    return max(found, key=lambda path: [int(number) for number in path.name.split(".")], default=None)


def list_prepared(data_dir: Path) -> list[str]:
    """List NAME[/CONFIG] of every prepared deblurring benchmark in `data_dir`."""
    titles = []
    for name in (*CONFIGS, *MADE):
        configs = [path.name for path in sorted((data_dir / name).iterdir()) if path.is_dir()] if (data_dir / name).is_dir() else []
        titles += [title for title in [name, *(f"{name}/{config}" for config in configs)] if version_folder(data_dir, title)]
    return titles


def is_prepared_spec(text: str) -> bool:
    """Check whether a text that is not a folder has the form NAME[/CONFIG][:SPLIT]."""
    return not Path(text).expanduser().exists() and _SPEC.fullmatch(text) is not None


def find_prepared(spec: str, *, data_dir: Path | None = None) -> tuple[PreparedSet, str | None]:
    """Find the prepared data set of `spec`, and the split, if given. CONFIG may be omitted if only one is prepared.

    Raises `InputError` if there is no such data set, if it is not prepared (with the command for that), or if several match.
    """
    data_dir = data_dir or default_data_dir()
    match = _SPEC.fullmatch(spec)
    if match is None or match["name"] not in (*CONFIGS, *MADE):
        close = difflib.get_close_matches(match["name"] if match else spec, (*CONFIGS, *MADE), n=1, cutoff=0.5)
        guess = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(
            f"{spec!r} is neither a folder nor a data set{guess}; write NAME[/CONFIG][:SPLIT] "
            f"with one of {', '.join((*CONFIGS, *MADE))}; prepared in {data_dir}: {', '.join(list_prepared(data_dir)) or 'none'}"
        )
    name, config, split = match.groups()
    fitting = [f"{name}/{config}"] if config else [title for title in list_prepared(data_dir) if title.split("/")[0] == name]
    if len(fitting) > 1:
        raise InputError(f"Of {name}, {' and '.join(fitting)} are prepared in {data_dir}; give one of them")
    folder = version_folder(data_dir, fitting[0]) if fitting else None
    if folder is None:
        raise InputError(
            f"{f'{name}/{config}' if config else name} is not prepared in {data_dir} "
            f"(there: {', '.join(list_prepared(data_dir)) or 'none'}); prepare it with {_command(name, config)}"
        )
    try:
        metadata = json.loads((folder / "metadata.json").read_text()) | (_describe_made(folder) if name in MADE else {})
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} is damaged ({error}); prepare the data set again with --overwrite") from error
    if not {"kind", "splits"} <= metadata.keys():
        raise InputError(f"{folder} was not written by `drsn-jax prepare`; remove it, or choose another --data-dir")
    return PreparedSet(fitting[0], folder, metadata), split


def _describe_made(folder: Path) -> dict[str, Any]:
    """Describe a set made by Beam. Its workers know only their own pairs, so scenes and sizes are only stored with the pairs."""
    info = json.loads((folder / "dataset_info.json").read_text())
    counts = {split["name"]: sum(int(length) for length in split["shardLengths"]) for split in info["splits"]}
    return {"kind": "pairs", "unsplit": True, "splits": {name: {"examples": count} for name, count in counts.items()}}


def choose_split(prepared: PreparedSet, split: str | None, *, default: str | None = None) -> str:
    """Choose the split to read: the given one, else the default, else the only one. Raises `InputError` listing the splits."""
    splits: Sequence[str] = list(prepared.metadata["splits"])
    if split is None and (len(splits) == 1 and (default is None or prepared.metadata.get("unsplit"))):
        return splits[0]
    if (chosen := split or default) in splits:
        return chosen
    given = f"has no split {chosen!r}" if chosen else "has several splits"
    raise InputError(f"{prepared.title} {given}; use one of {', '.join(f'{prepared.title}:{name}' for name in splits)}")


def content_hash(prepared: PreparedSet, *splits: str) -> str:
    """Return a SHA-256, in hexadecimal, of the names and files of a split, or of several in alphabetical order.

    For a set made by Beam, without hashes of files, it covers the metadata of tfds and the settings.
    """
    digest = hashlib.sha256()
    hashes = [prepared.metadata["splits"][split].get("sha256") for split in sorted(splits)]
    if len(hashes) == 1 and hashes[0]:
        return hashes[0]
    for name, stored in zip(sorted(splits), hashes, strict=True):
        digest.update(f"{name} {stored}\n".encode())
    if not all(hashes):
        for name in ("dataset_info.json", "metadata.json"):
            digest.update((prepared.folder / name).read_bytes())
    return digest.hexdigest()


def _command(name: str, variant: str | None) -> str:
    if name in MADE:
        return f"`drsn-jax prepare {name.split('_')[1]} --beam-runner=DirectRunner`"
    options = {"gopro": " --blur=", "realblur": " --variant=", "lai": " --part=", FOLDERS: " --name="}
    choice = f"{options[name]}{variant or '|'.join(CONFIGS[name]) or 'NAME'}" if name in options else ""
    return f"`drsn-jax prepare {'pairs' if name == FOLDERS else name} --source=PATH{choice}`"
