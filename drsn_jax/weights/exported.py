"""The file of `drsn-jax export`: a generator as a StableHLO program with its weights and description; writing and running.

An uncompressed zip archive: `export.json`, `generator.jax_export` (jax.export's serialised form, a function of variables and
images) and `weights/COLLECTION/LAYER/.../NAME.npy`. It also runs without drsn-jax:

    program = jax.export.deserialize(bytearray(archive.read("generator.jax_export")))
    restored = jax.jit(program.call)(variables, images)  # the weights as nested dictionaries; float32 [b h w 3] in [-1, 1]
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath

FORMAT, VERSION = "drsn-jax generator", 1
DESCRIPTION, PROGRAM, WEIGHTS = "export.json", "generator.jax_export", "weights/"
CUSTOM_CALLS = {"shape_assertion"}  # calls in our own programs: the check of the sizes


class Exported(NamedTuple):
    """`apply_fn`, jitted, maps variables and images [b h w 3] in [-1, 1] to restored ones; `description` is `export.json`."""

    apply_fn: Callable[[Any, Any], jax.Array]
    variables: dict[str, Any]
    description: dict[str, Any]


def import_export() -> Any:
    """Import jax.export and its requirements. Raises InputError if they are not installed."""
    try:
        import flatbuffers  # noqa: F401  jax.export itself would say so only later
        from jax import export
    except ImportError as error:
        raise InputError(f"Exporting, and running exports, needs flatbuffers ({error}): pip install 'drsn-jax[export]'.") from error
    return export


def pack_exported(*, program: bytes, variables: Mapping[str, Any], description: Mapping[str, Any]) -> bytes:
    """Pack the bytes of an export. `description` has config, info, stride, dtype, platforms and the version of jax."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, so that the same model gives the same bytes

        write(DESCRIPTION, json.dumps({"format": FORMAT, "version": VERSION, **description}, indent=1).encode())
        write(PROGRAM, program)
        for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables)):
            numbers = io.BytesIO()
            np.save(numbers, np.asarray(leaf), allow_pickle=False)
            write(f"{WEIGHTS}{'/'.join(key.key for key in path)}.npy", numbers.getvalue())
    return buffer.getvalue()


def read_exported(file: AnyPath | io.BufferedIOBase, *, device: Any = None) -> Exported:
    """Read an export and check that this jax can run it on the platform of `device` or the default one.

    Raises InputError for files that are damaged or no exports, and for exports of a newer drsn-jax or for other platforms. Raises it also
    for an export of a jax that is too old or too new for this one. A program that calls functions of jaxlib by name is refused too, because
    generators do not.
    """
    export, name = import_export(), "the export" if isinstance(file, io.BufferedIOBase) else str(file)
    try:
        with zipfile.ZipFile(io.BytesIO(file.read_bytes()) if isinstance(file, epath.Path) else file) as archive:
            description = _read_description(archive, name)
            variables = _read_weights(archive)
            program = bytearray(_read(archive, PROGRAM))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}); give another --model.") from error
    except Exception as error:  # a damaged file can fail in many ways
        raise InputError(
            f"{name} is not an export of drsn-jax, or it is damaged ({_reason(error)}); give a workdir, a checkpoint or an export."
        ) from error
    try:
        exported = export.deserialize(program)
        oldest, newest = export.minimum_supported_calling_convention_version, export.maximum_supported_calling_convention_version
        if not oldest <= exported.calling_convention_version <= newest:
            raise ValueError(f"its calling convention is {exported.calling_convention_version}, not {oldest} to {newest}")
        _check_program(exported, variables, name)
    except InputError:
        raise
    except Exception as error:
        versions = f"it was exported with jax {description['jax']}, this is jax {jax.__version__}"
        raise InputError(f"{name} cannot be run: {versions} ({_reason(error)}); export the model again with this version.") from error
    # jax's name for a GPU platform is gpu, an export's cuda or rocm.
    here = export.default_export_platform() if device is None or device.platform == jax.default_backend() else device.platform
    if here not in exported.platforms:
        there = ", ".join(exported.platforms)
        raise InputError(f"{name} was exported for {there}, and this is {here}; export the model again with --platforms={here}.")
    return Exported(jax.jit(exported.call), variables, description)


def _check_program(exported: Any, variables: dict[str, Any], name: str) -> None:
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    leaves, structure = jax.tree.flatten(((variables, image), {}))
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves[:-1]]
    if exported.in_tree != structure or [(aval.shape, aval.dtype) for aval in exported.in_avals[:-1]] != shapes:
        raise ValueError("its weights are not those of its program")
    if foreign := set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module())) - CUSTOM_CALLS:
        raise InputError(
            f"{name} is refused: it calls {', '.join(sorted(foreign))[:80]} of jaxlib, which generators do not need; use a trusted export."
        )


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed")
    return archive.read(name)


def _read_description(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    description = json.loads(_read(archive, DESCRIPTION))
    if description["format"] != FORMAT:
        raise ValueError("its description is of another format")
    if description["version"] > VERSION:
        raise InputError(f"{name} was written by a newer drsn-jax ({description['drsn_jax']}); upgrade, or export the model with this one.")
    if not isinstance(description["config"], dict) or not isinstance(description["info"], dict) or type(description["stride"]) is not int:
        raise ValueError("its description is incomplete")
    return {"jax": "?", **description}


def _read_weights(archive: zipfile.ZipFile) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for name in archive.namelist():
        if name.startswith(WEIGHTS):
            *folders, leaf = name.removeprefix(WEIGHTS).removesuffix(".npy").split("/")
            tree = variables
            for folder in folders:
                tree = tree.setdefault(folder, {})
            tree[leaf] = np.load(io.BytesIO(_read(archive, name)), allow_pickle=False)
    return variables


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
