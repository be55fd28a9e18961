"""Reader of torch.save's files without PyTorch and without running code from the file.

A checkpoint is a pickle with references to its numbers. They are files of a zip archive (since PyTorch 1.6), or follow the pickle. A
pickle is a program that may call anything. Here it can only describe tensors; every other call is refused by name.
"""

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from drsn_jax.system.errors import InputError

KINDS = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4"}
KINDS |= {"ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?"}
KINDS |= {"BFloat16Storage": np.dtype(ml_dtypes.bfloat16).name}
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MOST_MEMOS = 1_000_000  # the unpickler allocates memory up to the highest memo number; a checkpoint has about ten per tensor


class _Storage(NamedTuple):
    key: str
    kind: str
    size: int  # in numbers
    first: int = 0  # of a view, in the storage that the key names (legacy format)


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers


class _Mapping(dict):
    """A replacement for OrderedDict: a pickle could overwrite the attributes of that class."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drop torch's additional data, the versions of the modules."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that only accepts descriptions of tensors. It returns bound methods and strings; their attributes cannot be set."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        """Decode strings as Latin-1, which reads Python 2's strings and any other bytes."""
        super().__init__(file, encoding="latin1")
        self.kinds: dict[str, str] = {}  # of all storages seen so far

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Replace every global in the pickle. Raises InputError for all except the few that tensors need."""
        admitted = {
            ("collections", "OrderedDict"): _Mapping,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch", "Size"): tuple,
            **{("torch", name): kind for name, kind in KINDS.items()},
        }
        if (module_name, global_name) not in admitted:
            name = repr(f"{module_name}.{global_name}"[:80])
            raise InputError(f"it uses {name}, which weights do not need, and was not executed")
        return admitted[module_name, global_name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage of a tensor, by its key."""
        kind, key, _, size, *view = pid[1:]
        if pid[0] != "storage" or kind not in KINDS.values() or type(size) is not int:
            raise ValueError("it describes a storage in an unknown way")
        if view and view[0] is not None:  # (key, first number, size) of a storage that is part of another one
            return self._named(_Storage(str(key), kind, int(view[0][2]), int(view[0][1])))
        return self._named(_Storage(str(key), kind, size))

    def _named(self, storage: _Storage) -> _Storage:
        if self.kinds.setdefault(storage.key, storage.kind) != storage.kind or storage.first < 0:
            raise ValueError("it describes a storage twice, and differently")
        return storage

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def _parameter(self, tensor: Any, *_: Any) -> Any:
        return tensor


def _unpickle(file: io.BufferedIOBase) -> tuple[Any, dict[str, str]]:
    """Read the next pickle of a file and the kinds of its storages, by key.

    Its instructions are checked first, so that false lengths or numbers cannot allocate memory.
    """
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):  # pyright: ignore[reportArgumentType]
        if "PUT" in opcode.name and int(argument or 0) > MOST_MEMOS:
            raise ValueError("it numbers more objects than a checkpoint has")
    file.seek(start)
    unpickler = _Unpickler(file)
    return unpickler.load(), unpickler.kinds


def _named_tensors(tree: Any, keep: Callable[[str], bool]) -> dict[str, _Tensor]:
    """Return the state dict of a checkpoint: the mapping itself, or the only one inside it that contains tensors."""
    if not isinstance(tree, dict):
        raise InputError(f"it holds a {type(tree).__name__}, not the weights of a network by name")
    named = {name: leaf for name, leaf in tree.items() if isinstance(name, str) and isinstance(leaf, _Tensor)}
    if not named:
        inner = {name: value for name, value in tree.items() if isinstance(value, dict)}
        holding = [name for name in inner if any(isinstance(leaf, _Tensor) for leaf in inner[name].values())]
        if len(holding) != 1:
            names = ", ".join(repr(str(name)[:40]) for name in holding[:8]) or "none"
            raise InputError(f"it holds several sets of weights, or none ({names}); store the wanted one separately")
        named = {name: leaf for name, leaf in inner[holding[0]].items() if isinstance(name, str) and isinstance(leaf, _Tensor)}
    if not all(isinstance(tensor.storage, _Storage) for tensor in named.values()):
        raise ValueError("a tensor has no storage")
    return {name: tensor for name, tensor in named.items() if keep(name)}


def _make_array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """Make a tensor from its storage's numbers [n]. Raises ValueError if it would exceed or repeat them."""
    storage, offset, shape, strides = tensor
    if not all(type(x) is int and x >= 0 for x in (offset, *shape, *strides)) or len(shape) != len(strides):
        raise ValueError("a tensor's shape is invalid")
    count, first = math.prod(shape), storage.first + offset
    reach = first + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) if count else 0
    if count > storage.size or reach >= max(len(numbers), 1):
        raise ValueError("a tensor reaches beyond its numbers")
    steps = [stride * numbers.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[first:], shape, steps).copy() if count else np.zeros(shape, numbers.dtype)


def read_torch_zip(path: Path, *, keep: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Read the tensors of a zip checkpoint (PyTorch since 1.6) whose names `keep` accepts. Raises as `tensors.read_tensors`."""
    with zipfile.ZipFile(path) as archive:

        def read(name: str) -> bytes:
            if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                raise ValueError("it is compressed, which torch.save never does")  # it could be larger than memory
            return archive.read(name)

        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise InputError(f"{path} is a zip archive, but not one of torch.save; give a .pth or .safetensors file of weights.")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names and read(f"{root}byteorder") != b"little":
            raise ValueError("it was written by a big-endian machine")
        with _refusing(path):
            named = _named_tensors(_unpickle(io.BytesIO(read(pickles[0])))[0], keep)
        kinds = {tensor.storage.key: tensor.storage.kind for tensor in named.values()}
        numbers = {key: np.frombuffer(read(f"{root}data/{key}"), kind) for key, kind in kinds.items()}
    return {name: _make_array(tensor, numbers[tensor.storage.key]) for name, tensor in named.items()}


def read_torch_pickle(path: Path, *, keep: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Read the same from a checkpoint of the format before 1.6: five pickles in a row, then each storage as its size and numbers."""
    with path.open("rb") as file, _refusing(path):
        if _unpickle(file)[0] != LEGACY_MAGIC or _unpickle(file)[0] != LEGACY_PROTOCOL:
            raise InputError("it is a pickle, but not one of torch.save")
        if not _unpickle(file)[0].get("little_endian", True):
            raise ValueError("it was written by a big-endian machine")
        tree, kinds = _unpickle(file)
        named, numbers = _named_tensors(tree, keep), {}
        wanted = {tensor.storage.key for tensor in named.values()}
        for key in _unpickle(file)[0]:
            length = int.from_bytes(file.read(8), "little") * np.dtype(kinds[key]).itemsize
            if length > path.stat().st_size - file.tell():
                raise ValueError("it ends within its numbers")
            if key in wanted:
                numbers[key] = np.frombuffer(file.read(length), kinds[key])
            else:
                file.seek(length, os.SEEK_CUR)
    return {name: _make_array(tensor, numbers[tensor.storage.key]) for name, tensor in named.items()}


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Add the file and the remedy to the reason of a refusal."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} is refused: {error}; give a file of weights alone (torch.save(net.state_dict(), FILE)).") from error
