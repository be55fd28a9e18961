"""Checkpoints on this machine and their copies in a bucket that Orbax does not write to."""

import re
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax

from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath, download, remove_tree, upload
from drsn_jax.weights.checkpoints import COMMIT_FILE, list_whole

_KEPT = re.compile(r"\d+(\.damaged\d*)?")


class Mirror:
    """A temporary folder of checkpoints, and a folder in a bucket that is made to hold the same.

    A copy counts once its commit file is there, which is written last and removed first.
    """

    def __init__(self, remote: AnyPath):
        """Copies what the bucket holds to this machine. Raises InputError for a run of several processes, BucketError."""
        if jax.process_count() > 1:
            raise InputError(f"A run of several processes cannot keep its checkpoints in {remote}; use gs://, or a folder that all share.")
        self._temporary = tempfile.TemporaryDirectory(prefix="drsn-jax-", ignore_cleanup_errors=True)
        self.remote, self.local = remote, Path(self._temporary.name) / "checkpoints"
        self._there: set[str] = set()
        self._copying, self._copied = ThreadPoolExecutor(1), Future()
        self._copied.set_result(None)
        for checkpoint in list_whole(remote):
            download(checkpoint, self.local / checkpoint.name)
            (self.local / checkpoint.name / COMMIT_FILE).unlink()
            self._there.add(checkpoint.name)

    def push(self) -> None:
        """Begins to make the bucket hold what this machine does; nothing of that may change until `wait` returns."""
        self.wait()
        self._copied = self._copying.submit(self._copy)

    def wait(self) -> None:
        """Returns when the copies are whole. Raises BucketError where one could not be made."""
        self._copied.result()

    def close(self) -> None:
        """Waits for the copies, and removes what is on this machine."""
        try:
            self.push()
            self.wait()
        finally:
            self._copying.shutdown()
            self._temporary.cleanup()

    def _copy(self) -> None:
        here = {path.name for path in self.local.glob("*") if path.is_dir() and _KEPT.fullmatch(path.name)}
        for name in sorted(here - self._there):
            upload(self.local / name, self.remote / name, commit=COMMIT_FILE)
            self._there.add(name)
        for name in sorted(self._there - here):
            remove_tree(self.remote / name, first=COMMIT_FILE)
            self._there.remove(name)
