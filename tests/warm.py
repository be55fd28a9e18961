"""Command lines one after another in one warm process with one CPU device, which imports and traces once for all of them.

Each starts from what the ones before have left in the process, as in a notebook. A test that sends signals, or sets the environment,
starts a process of its own.
"""

import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path


class Server:
    """The warm process. The first run starts it, and it ends with this process. It executes `prelude` first."""

    def __init__(self, environment: dict[str, str], *, prelude: str = ""):
        self.environment = environment
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([sys.executable, __file__, prelude], env=environment, text=True, **pipes)

    def run(self, arguments: Sequence[str], *, cwd: Path | None, timeout: float) -> subprocess.CompletedProcess:
        """Run `drsn-jax ARGUMENTS`; the result is that of subprocess.run."""
        with tempfile.TemporaryDirectory() as folder:
            request = {"arguments": list(arguments), "cwd": str(cwd or os.getcwd()), "folder": folder}
            print(json.dumps(request), file=self._process.stdin, flush=True)
            ready, _, _ = select.select([self._process.stdout], [], [], timeout)
            if not ready:
                self._process.kill()
                raise subprocess.TimeoutExpired(request["arguments"], timeout)
            code = self._process.stdout.readline()
            texts = [(Path(folder) / name).read_text() for name in ("out", "err")]
            assert code, f"the warm process has ended: {texts}"
            return subprocess.CompletedProcess(request["arguments"], int(code), *texts)

    def alive(self) -> bool:
        return self._process.poll() is None


def remember_steps() -> None:
    """Make runs of one configuration share their step, with its traces and programs. Call this before others import it."""
    from drsn_jax.config import build
    from drsn_jax.training import step

    make_parts, parts = build.make_parts, {}

    def remembered_parts(config, **options):
        key = json.dumps(dict(config), sort_keys=True, default=repr), repr(options)
        if key not in parts:
            parts[key] = make_parts(config, **options)
        return parts[key]

    build.make_parts, step.make_train_step = remembered_parts, functools.cache(step.make_train_step)


def call(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """Return the exit code of a process that ran this."""
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    return code if isinstance(code, int) else int(code is not None)


def serve(prelude: str) -> None:
    """Answer each command line on standard input with its exit code; its output goes into the folder named in the line."""
    answers, home = os.fdopen(os.dup(1), "w"), os.getcwd()
    exec(prelude, {})
    remember_steps()
    from drsn_jax.cli.main import main

    for line in sys.stdin:
        request = json.loads(line)
        for descriptor, name in ((1, "out"), (2, "err")):
            with open(Path(request["folder"]) / name, "w") as file:
                os.dup2(file.fileno(), descriptor)
        os.chdir(request["cwd"])
        code = call(main, request["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(home)
        print(code, file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
