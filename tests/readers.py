"""One image file through every verb that reads images, as uint8 RGB."""

import io
import struct

import numpy as np
from PIL import Image

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.rgb import image_size
from drsn_jax.data.pairs.pipeline import _decode_rgb, import_tensorflow
from drsn_jax.data.synthesis.photos import read_photos
from drsn_jax.evaluation.scoring.entries import Entry, read_input
from drsn_jax.restoration.restore import restore_files
from drsn_jax.serving.photographs import restore_upload
from drsn_jax.system.errors import InputError

# The pixel transformations of the EXIF orientations in Pillow's terms, independent of ours.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_levels(image):
    return np.rint(image * 255).astype(np.uint8)


class Seen:
    """A restore_fn that changes nothing and keeps what it was given."""

    def __init__(self):
        self.images = []

    def __call__(self, image):
        self.images.append(image)
        return image

    @property
    def levels(self):
        [image] = self.images
        return to_levels(image)


def read_everywhere(path, folder):
    """Return what each verb reads from `path`, or its refusal; `folder` is for output."""

    def restore():
        seen = Seen()
        report = restore_files([path], output=folder / "results", restore_fn=seen, overwrite=True, output_format="png")
        if report.failed:
            raise InputError(report.failed[0][1])
        return seen.levels

    def serve():
        upload, seen = folder / "upload", Seen()
        upload.write_bytes(path.read_bytes())
        for answer in folder.glob("restored*"):
            answer.unlink()
        restore_upload(upload, restore_fn=seen, max_pixels=10**6)
        return seen.levels

    def train():
        [image] = read_photos({"a": path}, bad_images=BadImages(1, what="photographs", skip=False)).values()
        return image

    def stream():
        import_tensorflow()
        return _decode_rgb(path)

    def evaluate():
        return read_input(Entry("a", path), protocol="full", noise_variance=0.0, index=0)

    results = {}
    for read in (restore, serve, train, stream, evaluate):
        try:
            results[read.__name__] = read()
        except InputError as error:
            results[read.__name__] = str(error)
    assert not any("\n" in text for text in results.values() if isinstance(text, str))
    return results


def check_alike(path, folder, expected=None, *, most=0):
    """Return the pixels of `path` and check that all verbs read the same, in the size of the header, and the expected ones if given."""
    results = read_everywhere(path, folder)
    refused = {verb: text for verb, text in results.items() if isinstance(text, str)}
    assert not refused, refused
    first = results["restore"]
    for verb, image in results.items():
        np.testing.assert_array_equal(image, first, err_msg=f"{verb} and restore see different pixels of {path.name}")
    assert image_size(path) == first.shape[:2]
    if expected is not None:
        assert first.shape == expected.shape
        assert np.abs(first.astype(int) - expected).max() <= most, "not the pixels that were written"
    return first


def check_refused(path, folder, *words):
    """Check that all verbs refuse `path` with this message."""
    results = read_everywhere(path, folder)
    for verb, text in results.items():
        assert isinstance(text, str), f"{verb} reads {path.name}"
        assert all(word in text for word in words), (verb, text)


def tiff_block(orientation, *, order="<", entries=None, following=True, extra=b""):
    """Make an EXIF block without prefix: its orientation, and all or some of the declared entries."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    block = head + struct.pack(f"{order}IH", 8, 1 if entries is None else entries)
    block += struct.pack(f"{order}HHIHH", 0x112, 3, 1, orientation, 0)
    return block + (bytes(4) if following else b"") + extra


def with_segments(jpeg, *segments):
    """Return a JPEG file with APP1 segments directly after its start."""
    return jpeg[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data for data in segments) + jpeg[2:]


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
