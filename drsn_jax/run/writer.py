"""The writer of a run's figures: metrics.jsonl always, TensorBoard through clu where it can be imported, a line on the terminal."""

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
    """One line to the terminal, at once; of several processes the first one speaks."""
    if jax.process_index() == 0:
        sys.stdout.write(message + "\n")
        sys.stdout.flush()


def warn(message: str) -> None:
    """One line to stderr, at once; of several processes whichever it happens to."""
    sys.stderr.write(f"drsn-jax: {message}\n")
    sys.stderr.flush()


class Writer:
    """Appends scalars to WORKDIR/metrics.jsonl, one line a write, and to TensorBoard event files where that is on and no bucket is.

    Lines of steps after `start_step` are dropped on opening: a run that resumes repeats those steps, and each stands there once.
    Of several processes the first one writes.
    """

    def __init__(self, workdir: AnyPath, *, start_step: int, tensorboard: bool):
        """Opens the files. Raises InputError if the folder cannot be written."""
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
        with contextlib.suppress(OSError):  # of a full disk, told by `scalars`: each line was kept when it was written
            if self._file:
                self._file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars of one step. Raises InputError if the disk is full."""
        try:
            if self._file:
                self._file.append((json.dumps({"step": step, **values}) + "\n").encode())
        except OSError as error:
            advice = "make room there and run the same command to go on from the newest checkpoint"
            raise InputError(f"{self._path} cannot be written ({error.strerror}); {advice}.") from error
        if self._tensorboard:
            self._tensorboard.write_scalars(step, dict(values))

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes a picture to TensorBoard; the PNG beside it is the caller's."""
        if self._tensorboard:
            self._tensorboard.write_images(step, {name: image[None]})
            self._tensorboard.flush()


def _lines_up_to(step: int, content: bytes) -> bytes:
    kept = []
    for line in content.decode(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a run that was killed while writing it
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    return "".join(kept).encode()


def _open_tensorboard(workdir: AnyPath) -> Any:
    try:
        from clu import metric_writers  # imports TensorFlow, 10 to 20 s, so not before it is wanted
    except ImportError as error:
        say(f"TensorBoard: off, clu cannot be imported ({error}); pip install 'drsn-jax[data]' for it. Figures are in {METRICS_FILE}.")
        return None
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # it has begun to use its devices already
        tf.config.set_visible_devices([], "GPU")  # writing its first figure it would take the memory that jax has left
    return metric_writers.SummaryWriter(str(workdir))
