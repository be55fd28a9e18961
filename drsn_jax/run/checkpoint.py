"""Checkpoints: the whole state and its configuration, written asynchronously and atomically (Orbax). Keeps the newest three and the best.

Orbax writes to disks and to gs://. For s3:// it writes to this machine, and `Mirror` copies the result.
"""

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from drsn_jax.run.mirror import Mirror
from drsn_jax.run.reading import DATA_KEYS, VERSIONS, DamagedError, Restored, read_patiently, read_state
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath, BucketError, absolute, is_bucket, scheme_of
from drsn_jax.system.processes import first_process
from drsn_jax.training.state import TrainState
from drsn_jax.weights.checkpoints import FOLDER, UNSCORED, list_whole, quieten

DELETED = ".deleted"  # deletion first moves a checkpoint here: Orbax could not remove a half-deleted one
# The system's messages for a file that cannot be written, and TensorStore's general one.
_SIGNS = ("No space left", "Disk quota exceeded", "File too large", "Permission denied", "Read-only file system", "RESOURCE_EXHAUSTED")


class Checkpoints:
    """The checkpoints of one run, below its workdir. Use as a context manager: its end waits for the last save."""

    def __init__(self, workdir: AnyPath, *, config: dict[str, Any], keep: int = 3):
        """Open WORKDIR/checkpoints, made if missing. `config` is stored with each checkpoint, as JSON."""
        self._mirror = Mirror(workdir / FOLDER) if scheme_of(workdir) == "s3" else None
        self.folder: AnyPath = self._mirror.local if self._mirror else absolute(workdir) / FOLDER
        self._config, self._keep = config, keep
        quieten()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        policies = ocp.checkpoint_managers
        best = policies.BestN(get_metric_fn=lambda metrics: metrics["psnr"], n=1)
        self._sweep()
        options = ocp.CheckpointManagerOptions(
            todelete_subdir=DELETED,
            best_fn=lambda metrics: metrics["psnr"],  # without it Orbax does not store the metrics
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(self._keep), best]),
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind and jax.process_count() > 1:
            return  # closing would wait for processes that wait for this one
        try:
            with self._explained():
                self._manager.close()
            if self._mirror:
                self._mirror.close()
        except Exception:  # an error of the last save; the one inside the block came first and is reported
            if kind is None:
                raise

    def save(self, step: int, state: TrainState, *, psnr: float | None = None) -> None:
        """Start saving; the state may be donated at once.

        `psnr` (dB) of the validation after this step decides which checkpoint is the best.

        Raises InputError if this save or the previous one could not be written, or if there is no room.
        """
        self.wait()
        size = sum(x.nbytes + 2048 for x in jax.tree.leaves(state))  # every array also appears in small metadata files, 2 kB together
        versions = {VERSIONS: ocp.args.JsonSave({"data_keys": DATA_KEYS})}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(self._config), **versions)
        with self._explained():
            _check_room(self.folder, needed=size, advice=self._advice())
            self._manager.save(step, args=items, metrics={"psnr": UNSCORED if psnr is None else psnr})
            if self._mirror:
                self._manager.wait_until_finished()
                self._mirror.push()

    def wait(self) -> None:
        """Wait until the last save is complete on disk. Raises InputError if it could not be written."""
        with self._explained():
            self._manager.wait_until_finished()
            if self._mirror:
                self._mirror.wait()
        self._sweep()

    def _sweep(self) -> None:
        if jax.process_index() == 0 and isinstance(self.folder, Path):
            shutil.rmtree(self.folder / DELETED, ignore_errors=True)

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return _explain_refusals(self.folder, advice=self._advice())

    def _advice(self) -> str:
        return f"make room or choose another --workdir; the newest complete checkpoint is {self.newest_whole() or 'none yet'}"

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints on disk, ascending."""
        return sorted(self._manager.all_steps())

    def newest_whole(self) -> int | None:
        """Return the newest step that is complete in the workdir."""
        steps = [int(path.name) for path in list_whole(self._mirror.remote if self._mirror else self.folder)]
        return max(steps, default=None)

    def restore(self, abstract_state: TrainState, *, say: Callable[[str], None]) -> Restored | None:
        """Restore the newest readable checkpoint, placed as in `abstract_state`; None if there is no checkpoint.

        Failed reads are repeated (`read_patiently`). After an older checkpoint was read, damaged newer ones are renamed to STEP.damaged,
        with a message. Raises InputError, with nothing changed, if none can be read, or if one fails for a reason other than damage. Raises
        it also if memory is short, or if a complete checkpoint has another architecture.
        """
        steps, damaged = self.steps(), []
        for step in reversed(steps):
            try:
                found = read_patiently(
                    partial(read_state, self._manager, step, abstract_state), what=f"checkpoint {step} in {self.folder}", say=say
                )
            except DamagedError as error:
                say(f"Checkpoint {step} cannot be read ({error}); trying the one before.")
                damaged.append(step)
                continue
            if damaged:
                say("\n".join(self._set_aside(damaged)))
            return found
        if steps:
            raise InputError(f"No checkpoint in {self.folder} can be read. They were not changed; choose another --workdir.")
        return None

    def _set_aside(self, steps: list[int]) -> list[str]:
        def rename(step: int) -> str:
            names = (self.folder / f"{step}.damaged{number or ''}" for number in itertools.count())
            aside = (self.folder / str(step)).rename(next(name for name in names if not name.exists()))
            return f"Checkpoint {step} is set aside as {aside.name}."

        self._manager.close()
        said = first_process(lambda: [rename(step) for step in steps])
        if self._mirror:
            self._mirror.push()
        self._manager = self._open()
        return said


@contextlib.contextmanager
def _explain_refusals(folder: AnyPath, *, advice: str) -> Iterator[None]:
    """Turn a refusal by the disk inside the block into InputError; `advice` ends the sentence. Other errors pass."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Orbax passes on the errors of its storage library, which have many types
        text = " ".join(str(error).split())
        for sign in _SIGNS:
            if sign in text:
                raise InputError(f"A checkpoint could not be written to {folder}: {sign}; {advice}.") from error
        if is_bucket(folder):
            raise BucketError(folder, error) from error
        raise


def _check_room(folder: AnyPath, *, needed: int, advice: str) -> None:
    """Raise InputError if so many bytes do not fit, before writing starts. OSError if the folder cannot be made.

    Orbax would report it too, but afterwards its threads keep the process alive for five minutes.
    """
    if not isinstance(folder, Path):
        return
    probe = folder / f".probe{jax.process_index()}"
    probe.mkdir(exist_ok=True)
    probe.rmdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"No room for a checkpoint: it needs {needed / 1e6:.3g} MB, {free / 1e6:.3g} MB are free; {advice}.")
