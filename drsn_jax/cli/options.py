"""Options that several verbs share."""

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
    """A path on this machine as the user typed it."""
    return _read(local_path, text)


def place(text: str) -> AnyPath:
    """A path on this machine or in a bucket."""
    return _read(any_path, text)


def _read(read: Callable[[str], Any], text: str) -> Any:
    """What `read` gives; of its InputError argparse, which sees a ValueError, would say that the value is invalid and no more."""
    try:
        return read(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def declare_config(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """--config, with the overrides that `cli` collects."""
    text = "a configuration by name (`drsn-jax info` lists them), or FILE.py" + (f"; default {default}" if default else "")
    parser.add_argument("--config", default=default, required=default is None, metavar="NAME_OR_FILE", help=text)
    parser.epilog = "--config.KEY=VALUE changes a key of the configuration; `drsn-jax info --config=NAME` lists all keys."


def declare_model(parser: Any, *, required: bool = True, default: str | None = None) -> None:
    """--model."""
    text = f"a model inside the package ({', '.join(SHIPPED)}), the --workdir of a training, one of its checkpoints,"
    text += " an exported model (each also in gs:// or s3://), or hf://OWNER/NAME[@REVISION] of the Hugging Face Hub."
    text += " Of a workdir the best checkpoint by validation PSNR is used, else the newest" + (f"; default {default}" if default else "")
    required = required and default is None
    parser.add_argument("--model", type=_model, required=required, default=default, metavar="NAME_OR_PATH", help=text)


def _model(text: str) -> AnyPath | str:
    """A model of the Hub stays an address until the rest of the command line is known to be right: see `find_models`."""
    return text if text.startswith("hf://") else _read(find_model, text)


def find_models(arguments: argparse.Namespace) -> None:
    """Downloads the --model that is on the Hub, if it is."""
    if isinstance(getattr(arguments, "model", None), str):
        arguments.model = find_model(arguments.model)


def declare_tile(parser: Any, *, default: int) -> None:
    """--tile and --overlap, of a parser or a group of one."""
    text = f"side of a tile in pixels; larger images are cut into tiles (default {default})"
    parser.add_argument("--tile", type=int, default=default, metavar="PIXELS", help=text)
    parser.add_argument("--overlap", type=int, default=64, metavar="PIXELS", help="overlap of two tiles in pixels (default 64)")


def declare_device(parser: Any) -> None:
    """--device, of a parser or a group of one."""
    text = "device to restore on: cpu, gpu, tpu, or one of several as gpu:1 (default: jax's own choice)"
    parser.add_argument("--device", metavar="NAME", help=text)


def declare_dtype(parser: Any) -> None:
    """--dtype, of a parser or a group of one."""
    text = "precision to compute in, whatever the model was trained in: float32 (default), or bfloat16, faster on devices made for it"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help=text)


def declare_quiet(parser: Any, *, shown: str) -> None:
    """--quiet: `shown` is printed all the same."""
    parser.add_argument("--quiet", action="store_true", help=f"print no progress, only {shown}")


def declare_json(parser: Any, *, printed: str) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help=f"print {printed} as JSON on stdout, for scripts")


@contextlib.contextmanager
def no_progress(quiet: bool) -> Iterator[None]:
    """Drops, with `quiet`, the progress that goes to stderr inside the block. Errors are raised, and so not lost."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere) if quiet else contextlib.nullcontext():
        yield


def print_json(document: Any) -> None:
    """Writes one JSON document to stdout."""
    sys.stdout.write(f"{json.dumps(document, indent=1, default=str)}\n")


def declare_processes(parser: argparse.ArgumentParser) -> None:
    """--coordinator, --num-processes and --process-id."""
    group = parser.add_argument_group("several processes (found automatically on TPU pods, under Slurm and Open MPI)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="machine of process 0 and a free port there, the same for all processes")
    group.add_argument("--num-processes", type=int, metavar="N", help="number of processes; 1 keeps this one alone in a cluster")
    group.add_argument("--process-id", type=int, metavar="I", help="number of this process, from 0 to N-1")
