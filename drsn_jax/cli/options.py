"""Options shared by several verbs."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath, any_path, local_path
from drsn_jax.weights.shipped import SHIPPED, find_model


def path(text: str) -> Path:
    """Parse a path on this machine as the user typed it."""
    return _read(local_path, text)


def place(text: str) -> AnyPath:
    """Parse a path on this machine or in a bucket."""
    return _read(any_path, text)


def _read(read: Callable[[str], Any], text: str) -> Any:
    """Return `read(text)`. Its InputError becomes argparse's own error, which would otherwise replace the message by "invalid value"."""
    try:
        return read(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def declare_config(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """Declare --config; `cli.main` collects its overrides."""
    text = "a configuration by name (`drsn-jax info` lists them), or FILE.py" + (f"; default {default}" if default else "")
    parser.add_argument("--config", default=default, required=default is None, metavar="NAME_OR_FILE", help=text)
    parser.epilog = "--config.KEY=VALUE changes a key of the configuration; `drsn-jax info --config=NAME` lists all keys."


def declare_model(parser: Any, *, required: bool = True, default: str | None = None) -> None:
    """Declare --model."""
    text = f"a model inside the package ({', '.join(SHIPPED)}), the --workdir of a training, one of its checkpoints,"
    text += " an exported model (each also in gs:// or s3://), or hf://OWNER/NAME[@REVISION] on the Hugging Face Hub."
    text += " A workdir stands for its best checkpoint by validation PSNR, else its newest" + (f"; default {default}" if default else "")
    required = required and default is None
    parser.add_argument("--model", type=_model, required=required, default=default, metavar="NAME_OR_PATH", help=text)


def _model(text: str) -> AnyPath | str:
    """Parse --model. An address of the Hub is only downloaded after the rest of the command line is checked, by `find_models`."""
    return text if text.startswith("hf://") else _read(find_model, text)


def find_models(arguments: argparse.Namespace) -> None:
    """Download --model if it is on the Hub."""
    if isinstance(getattr(arguments, "model", None), str):
        arguments.model = find_model(arguments.model)


def declare_tile(parser: Any, *, default: int) -> None:
    """Declare --tile and --overlap on a parser or group."""
    text = f"side of a tile in pixels; larger images are cut into tiles (default {default})"
    parser.add_argument("--tile", type=int, default=default, metavar="PIXELS", help=text)
    parser.add_argument("--overlap", type=int, default=64, metavar="PIXELS", help="overlap of two tiles in pixels (default 64)")


def declare_device(parser: Any) -> None:
    """Declare --device on a parser or group."""
    text = "device to restore on: cpu, gpu, tpu, or one of several as gpu:1 (default: jax's own choice)"
    parser.add_argument("--device", metavar="NAME", help=text)


def declare_dtype(parser: Any) -> None:
    """Declare --dtype on a parser or group."""
    text = "precision of the computation, independent of the training: float32 (default), or bfloat16, faster on devices made for it"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help=text)


def declare_quiet(parser: Any, *, shown: str) -> None:
    """Declare --quiet; the help says that `shown` is still printed."""
    parser.add_argument("--quiet", action="store_true", help=f"print no progress, only {shown}")


def declare_json(parser: Any, *, printed: str) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help=f"print {printed} as JSON on stdout, for scripts")


@contextlib.contextmanager
def no_progress(quiet: bool) -> Iterator[None]:
    """Suppress progress on stderr inside the block if `quiet`. Errors are exceptions, so they are not lost."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere) if quiet else contextlib.nullcontext():
        yield


def print_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(f"{json.dumps(document, indent=1, default=str)}\n")


def declare_processes(parser: argparse.ArgumentParser) -> None:
    """Declare --coordinator, --num-processes and --process-id."""
    group = parser.add_argument_group("several processes (found automatically on TPU pods, under Slurm and Open MPI)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="machine of process 0 and a free port there, the same for all processes")
    group.add_argument("--num-processes", type=int, metavar="N", help="number of processes; 1 keeps this one alone in a cluster")
    group.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0 to N-1")
