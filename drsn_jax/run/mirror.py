"""Local checkpoints and their copies in a bucket that Orbax does not support."""

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
    """A temporary folder of checkpoints, and a folder in a bucket with the same content.

    A copy counts once its commit file exists, which is written last and removed first.
    """

    def __init__(self, remote: AnyPath):
        """Copy the bucket's content to this machine. Raises InputError for a run of several processes, BucketError."""
        if jax.process_count() > 1:
            raise InputError(f"A run of several processes cannot keep its checkpoints in {remote}; use gs://, or a folder that all share.")
        self._temporary = tempfile.TemporaryDirectory(prefix="drsn-jax-", ignore_cleanup_errors=True)
        self.remote, self.local = remote, Path(self._temporary.name) / "checkpoints"
        self._there: set[str] = set()
        self._copying, self._copied = ThreadPoolExecutor(1), Future()
        self._copied.set_result(None)
        for checkpoint in list_whole(remote):
            download(checkpoint, self.local / checkpoint.name)
            (self.local / checkpoint.name / COMMIT_FILE).unlink(missing_ok=True)
            self._there.add(checkpoint.name)

    def push(self) -> None:
        """Start copying changes to the bucket. The local files must not change until `wait` returns."""
        self.wait()
        self._copied = self._copying.submit(self._copy)

    def wait(self) -> None:
        """Wait until the copies are complete. Raises BucketError if one failed."""
        self._copied.result()

    def close(self) -> None:
        """Wait for the copies, and remove the local ones."""
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
