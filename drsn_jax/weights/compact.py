"""Compact models: parameters in float16 and the configuration, in small pieces. Optimiser moments are dropped.

A folder of `compact.json` (format, version, configuration, step, the SHA-256 of each piece) and `weights-N.npz`. The name of an array is
its path, such as `ema_params/stem/conv/kernel`. Half precision changes a restored image by at most one level in a few pixels. Parameters
outside the range of float16 are refused.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.system.paths import AnyPath, check_bucket

DESCRIPTION = "compact.json"
FORMAT, VERSION = "drsn-jax compact model", 1
PIECE_BYTES = 15 * 2**20  # of arrays; with the names a piece stays below 16 MiB
FIELDS = ("generator_params", "generator_stats", "ema_params", "critic_params", "critic_stats")  # of the training state
INFERENCE_FIELDS = ("ema_params", "generator_stats")
_PIECE = re.compile(r"weights-\d+\.npz")
_EDGE = float(np.finfo(np.float16).max)


class Compact(NamedTuple):
    """Fields of a training state as float32 numpy arrays, the configuration, and their step."""

    fields: dict[str, Any]
    config: dict[str, Any]
    step: int


def is_compact(path: AnyPath) -> bool:
    """Check whether a folder is a compact model."""
    return (path / DESCRIPTION).is_file()


def write_compact(folder: AnyPath, *, fields: Mapping[str, Any], config: Mapping[str, Any], step: int) -> list[AnyPath]:
    """Write some of `FIELDS`; returns the files. The description is written last: without it a folder is no model.

    Raises InputError if the folder is not empty, or if a value is too large for float16 or not finite. If writing fails, for example on a
    full disk, all files are removed.
    """
    check_bucket(folder, write=True)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists; choose another --output, a new folder.")
    pieces = [_pack(arrays) for arrays in _divide(_to_half(fields))]
    names = [f"weights-{i}.npz" for i in range(len(pieces))]
    description = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "pieces": {name: hashlib.sha256(piece).hexdigest() for name, piece in zip(names, pieces, strict=True)},
        "empty": [name for name, tree in fields.items() if not flatten_dict(dict(tree))],
        "config": dict(config),
    }
    contents = [*pieces, (json.dumps(description, indent=1) + "\n").encode()]
    files: list[AnyPath] = [folder / name for name in (*names, DESCRIPTION)]
    try:
        for file, content in zip(files, contents, strict=True):
            write_atomically(file, content)
    except BaseException:  # also for a full disk and Ctrl-C: leave the folder as it was
        for file in files:
            file.unlink(missing_ok=True)
        raise
    return files


def read_compact(folder: AnyPath) -> Compact:
    """Read a compact model. Raises InputError if it is incomplete, damaged, or of a newer drsn-jax."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        if description["format"] != FORMAT or not isinstance(description["config"], dict):
            raise ValueError("its description is of another format")
        if description["version"] > VERSION:
            raise InputError(f"{folder} was written by a newer drsn-jax; upgrade, or write it again with this one.")
        arrays: dict[str, np.ndarray] = {}
        for name, digest in description["pieces"].items():
            if not _PIECE.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not a name of a piece")
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(f"{name} has changed since it was written")
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError(f"{name} is compressed")  # it could be larger than memory
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays |= {key: stored[key].astype(np.float32) for key in stored.files}
        fields = unflatten_dict(arrays, sep="/") | {name: {} for name in description["empty"]}
        return Compact(fields, description["config"], int(description["step"]))
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{folder} is not a compact model, or it is damaged ({reason}); fetch all of its files again.") from error


def _to_half(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(leaf, np.float32) for name, leaf in flatten_dict(dict(fields), sep="/").items()}
    for name, array in arrays.items():
        if not (np.abs(array) <= _EDGE).all():  # NaN compares as False
            raise InputError(
                f"{name} contains values that are not finite or beyond {_EDGE:g}, the range of float16; give a model that did not diverge"
            )
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def _divide(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Group arrays into pieces of up to `PIECE_BYTES` each, in order."""
    pieces: list[dict[str, np.ndarray]] = [{}]
    for name, array in arrays.items():
        if pieces[-1] and sum(held.nbytes for held in pieces[-1].values()) + array.nbytes > PIECE_BYTES:
            pieces.append({})
        pieces[-1][name] = array
    return pieces


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()
