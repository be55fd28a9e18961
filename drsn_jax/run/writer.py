"""The writer of a run's figures: metrics.jsonl always, TensorBoard if clu can be imported, and a line on the terminal."""

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from drsn_jax.system.errors import InputError
from drsn_jax.system.growing import Growing, read_grown
from drsn_jax.system.paths import AnyPath, is_bucket

METRICS_FILE = "metrics.jsonl"


def say(message: str) -> None:
    """Print one line at once; in a run of several processes only the first one prints."""
    if jax.process_index() == 0:
        sys.stdout.write(message + "\n")
        sys.stdout.flush()


def warn(message: str) -> None:
    """Print one line to stderr at once, in every process."""
    sys.stderr.write(f"drsn-jax: {message}\n")
    sys.stderr.flush()


class Writer:
    """A writer of scalars to WORKDIR/metrics.jsonl, one write per line, and to TensorBoard event files, if enabled and not in a bucket.

    On opening, lines of steps after `start_step` are dropped: a resumed run repeats those steps, and each appears only once.
    In a run of several processes only the first one writes.
    """

    def __init__(self, workdir: AnyPath, *, start_step: int, tensorboard: bool):
        """Open the files. Raises InputError if the folder cannot be written."""
        self._path, self._tensorboard = workdir / METRICS_FILE, None
        self._file: Growing | None = None
        if jax.process_index():
            return
        try:
            self._file = Growing(self._path, _lines_up_to(start_step, read_grown(self._path)))
        except OSError as error:
            raise InputError(f"{self._path} cannot be written ({error.strerror}); choose a --workdir that can.") from error
        if tensorboard and is_bucket(workdir):
            say(f"TensorBoard: off for a --workdir in a bucket. Figures are in {METRICS_FILE}.")
        elif tensorboard:
            self._tensorboard = _open_tensorboard(workdir)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk, already reported by `scalars`; each line was stored when it was written
            if self._file:
                self._file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars of one step. Raises InputError if the disk is full."""
        try:
            if self._file:
                self._file.append((json.dumps({"step": step, **values}) + "\n").encode())
        except OSError as error:
            advice = "make room there and run the same command to resume from the newest checkpoint"
            raise InputError(f"{self._path} cannot be written ({error.strerror}); {advice}.") from error
        if self._tensorboard:
            self._tensorboard.write_scalars(step, dict(values))

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Write a picture to TensorBoard. The caller writes the PNG file."""
        if self._tensorboard:
            self._tensorboard.write_images(step, {name: image[None]})
            self._tensorboard.flush()


def _lines_up_to(step: int, content: bytes) -> bytes:
    kept = []
    for line in content.decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a run that was killed while writing
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    return "".join(kept).encode()


def _open_tensorboard(workdir: AnyPath) -> Any:
    try:
        from clu import metric_writers  # imports TensorFlow, which takes 10 to 20 s, so only if needed
    except ImportError as error:
        say(f"TensorBoard: off, clu cannot be imported ({error}); pip install 'drsn-jax[data]' for it. Figures are in {METRICS_FILE}.")
        return None
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # TensorFlow is already using its devices
        tf.config.set_visible_devices([], "GPU")  # at its first figure TensorFlow would allocate the memory that jax has left
    return metric_writers.SummaryWriter(str(workdir))
