"""Weight files of other programs, written byte by byte: torch.save's two formats, safetensors, Keras' VGG19."""

import json
import math
import struct
import zipfile

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage"}
MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # as torch.save writes it, protocol 2
PROTOCOL = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}q\x00(X\x0d\x00\x00\x00little_endianq\x01\x88u."


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integers(*values):
    return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"


def tensor(key, storage, size, shape, strides=None, offset=0, legacy=False):
    """Return the pickled description of one tensor."""
    strides = strides or [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    place = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + integers(size)[1:-1]
    place += (b"N" if legacy else b"") + b"tQ"
    last = integers(offset)[1:-1] + integers(*shape) + integers(*strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + last + b"tR"


def mapping(entries):
    """Return an OrderedDict of pickled values, with the attribute that torch gives a state dict."""
    items = b"".join(text(name) + value for name, value in entries.items())
    return b"ccollections\nOrderedDict\n)R(" + items + b"u}" + text("_metadata") + b"}sb"


def pickled(tensors, legacy=False, nested=None):
    """Return the state dict as a pickle, inside another dictionary under the name `nested` if given."""
    entries = {
        name: tensor(str(i), STORAGES[str(array.dtype)], array.size, array.shape, legacy=legacy)
        for i, (name, array) in enumerate(tensors.items())
    }
    tree = mapping(entries)
    if nested:
        tree = b"}(" + text("epoch") + b"K\x03" + text(nested) + tree + b"u"
    return b"\x80\x02" + tree + b"."


def write_zip(path, program, storages, compression=zipfile.ZIP_STORED):
    """Write a checkpoint of PyTorch since 1.6 from its pickle and its storages."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", b"little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array).tobytes())
        archive.writestr("archive/version", b"3\n")
    return path


def write_legacy(path, program, storages):
    """Write a checkpoint of PyTorch before 1.6."""
    keys = b"\x80\x02](" + b"".join(text(key) for key in storages) + b"e."
    numbers = b"".join(struct.pack("<q", array.size) + np.ascontiguousarray(array).tobytes() for array in storages.values())
    path.write_bytes(MAGIC + PROTOCOL + SYSTEM + program + keys + numbers)
    return path


def write_torch(path, tensors, *, legacy=False, nested=None):
    storages = {str(i): array for i, array in enumerate(tensors.values())}
    write = write_legacy if legacy else write_zip
    return write(path, pickled(tensors, legacy, nested), storages)


def write_safetensors(path, tensors, kind="F32"):
    """Write numpy arrays; with kind BF16 their upper halves are stored."""
    header, parts, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, array in tensors.items():
        raw = array.astype("<f4").tobytes() if kind == "F32" else (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
        parts.append(raw)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(parts))
    return path


def write_keras_vgg19(path, layers):
    """Write `layers` by our names, kernels [h w in out], in the layout of Keras' official file."""
    import h5py

    with h5py.File(path, "w") as file:
        names = [f"block{name[4]}_conv{name[6]}" for name in layers]
        file.attrs["layer_names"] = [b"input_1", *(name.encode() for name in names), b"block1_pool"]
        file.create_group("input_1").attrs["weight_names"] = np.zeros(0)
        file.create_group("block1_pool").attrs["weight_names"] = np.zeros(0)
        for name, layer in zip(names, layers.values(), strict=True):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}_W_1:0".encode(), f"{name}_b_1:0".encode()]
            group[f"{name}_W_1:0"], group[f"{name}_b_1:0"] = layer["kernel"], layer["bias"]
    return path
