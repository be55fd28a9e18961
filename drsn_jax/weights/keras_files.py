"""Reader of Keras' weight files without Keras: nothing in a file is executed, and no model is built from one.

There are three layouts: .keras, the .weights.h5 of Keras 3, and the .h5 of Keras 2 (`model.save_weights` and `model.save`). A .keras file
is a zip archive; only its model.weights.h5 is opened, because its configuration could name code to run.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drsn_jax.system.errors import InputError

SUFFIXES = (".keras", ".h5", ".hdf5")
MAX_BYTES = 2**31  # of a file: fifteen times both networks of the paper with optimiser moments; a zip bomb declares more
_INSIDE = "model.weights.h5"
_ROOTS = ("layers", "_layer_checkpoint_dependencies")  # of Keras 3, and of the new format in Keras 2.12 to 2.15
_GIVE = "give the file that Keras wrote (model.save_weights or model.save)"


class StoredLayer(NamedTuple):
    """One layer of a file: its name there, and its arrays in Keras' order, float32 (kernel, bias; gamma, beta, mean, variance)."""

    name: str
    arrays: list[np.ndarray]


def read_layers(path: Path) -> list[StoredLayer]:
    """Read the layers with weights; those of one kind (convolution, norm, dense) are in the order of the network.

    Raises InputError if the file is missing, damaged or of another layout. Raises it also if it refers to other files (external or soft
    links, virtual or external data sets).
    """
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise InputError(f"Reading {path.name} needs h5py: pip install 'drsn-jax[keras]'.") from error
    if not path.is_file():
        raise InputError(f"There is no file {path}; {_GIVE}.")
    try:
        with _open(path) as file:
            root = file["model_weights"] if _is_group(file, "model_weights") else file
            layers = list(_legacy_layers(root) if "layer_names" in root.attrs or "layer_names0" in root.attrs else _layers(root))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # depending on the damage zipfile, zlib or HDF5 fails
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path} is damaged or no Keras file ({type(error).__name__}: {reason}); {_GIVE}.") from error
    if not layers:
        raise InputError(f"{path} holds no layer with weights; {_GIVE}, of the generator or the critic alone.")
    return layers


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    import h5py

    if not zipfile.is_zipfile(path):
        with h5py.File(path, "r") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        if _INSIDE not in archive.namelist():
            raise InputError(f"the archive holds no {_INSIDE}; {_GIVE}.")
        with archive.open(_INSIDE) as member:
            content = member.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{_INSIDE} unpacks to more than {MAX_BYTES // 2**20} MiB, more than any network here; {_GIVE}.")
    with h5py.File(io.BytesIO(content), "r") as file:
        yield file


def _layers(root: Any) -> Iterator[StoredLayer]:
    """Order the layers as the network: Keras 3 numbers those of each class, as conv2d, conv2d_1, ... conv2d_10."""
    for top in _ROOTS:
        if not _is_group(root, top):
            continue
        group, classes = _member(root, top), {}
        for name in sorted(group, key=_natural):
            layer = _member(group, name)
            if any(_is_group(layer, nested) for nested in _ROOTS):
                raise InputError(f"layer {name} is a model inside the model; {_GIVE}, of the generator or the critic alone.")
            if _is_group(layer, "vars") and len(variables := _member(layer, "vars")):
                arrays = [_read(variables, number) for number in sorted(variables, key=_natural)]
                known = classes.setdefault(tuple(array.ndim for array in arrays), _natural(name)[0])
                if known != _natural(name)[0]:  # each class has its own numbers
                    raise InputError(f"the order of layers {known} and {name} is unknown; {_GIVE}, as .h5.")
                yield StoredLayer(name, arrays)


def _legacy_layers(root: Any) -> Iterator[StoredLayer]:
    """Read the layers of Keras 2, which lists them, and the weights of each, as attributes."""
    for name in _attribute(root, "layer_names"):
        group = _member(root, name)
        weights = _attribute(group, "weight_names")
        if any(weights.count(weight) > 1 for weight in weights):
            raise InputError(f"layer {name} names a weight twice; {_GIVE}.")
        if weights:
            yield StoredLayer(name, [_read(group, weight) for weight in weights])


def _attribute(group: Any, name: str) -> list[str]:
    """Read a list of strings; Keras splits long ones over NAME0, NAME1, ..."""
    names = [name] if name in group.attrs else [f"{name}{i}" for i in range(len(group.attrs)) if f"{name}{i}" in group.attrs]
    values = [value for key in names for value in np.asarray(group.attrs[key]).ravel().tolist()]
    if not all(isinstance(value, (bytes, str)) for value in values):
        raise InputError(f"the attribute {name} does not contain names; {_GIVE}.")
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]


def _natural(name: str) -> tuple[str, int]:
    stem, number = re.fullmatch(r"(.*?)_?(\d*)", name, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return stem, int(number[:9] or -1)


def _is_group(group: Any, name: str) -> bool:
    import h5py

    return name in group and isinstance(_member(group, name), h5py.Group)


def _member(group: Any, path: str) -> Any:
    """Follow a path inside a group. Every step must be a hard link, because other links may lead to other files."""
    import h5py

    for part in path.split("/"):
        if not isinstance(group, h5py.Group) or not part:
            raise InputError(f"{path!r} is not a place in it; {_GIVE}.")
        link = group.get(part, getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise InputError(f"{path!r} is a link to another place ({type(link).__name__}), which is refused; {_GIVE}.")
        if link is None:
            raise InputError(f"{path!r} is missing from it; {_GIVE}.")
        group = group[part]
    return group


def _read(group: Any, path: str) -> np.ndarray:
    import h5py

    dataset = _member(group, path)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
        raise InputError(f"{path!r} holds no floating point numbers; {_GIVE}.")
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{path!r} keeps its numbers in another file, which is refused; {_GIVE}.")
    if dataset.size * dataset.dtype.itemsize > MAX_BYTES:
        raise InputError(f"{path!r} declares {dataset.size:,} numbers, more than any layer here; {_GIVE}.")
    values = np.asarray(dataset[()], np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path!r} holds values that are not finite; give weights of a training that did not diverge.")
    return values
