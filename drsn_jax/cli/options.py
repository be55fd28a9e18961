"""Options that several verbs share."""

import argparse
from collections.abc import Callable
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


def model(text: str) -> AnyPath:
    """A model's name, or its path on this machine or in a bucket."""
    return _read(find_model, text)


def _read(read: Callable[[str], Any], text: str) -> Any:
    """What `read` gives; of its InputError argparse, which sees a ValueError, would say that the value is invalid and no more."""
    try:
        return read(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def declare_config(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """--config, with the overrides that `cli` collects."""
    parser.add_argument(
        "--config", default=default, required=default is None, help="a configuration by name (see `drsn-jax info`), or FILE.py"
    )
    parser.epilog = "Any key of the configuration is changed by --config.KEY=VALUE; `drsn-jax info --config=NAME` lists them."


def declare_model(parser: argparse.ArgumentParser, *, required: bool = True, default: str | None = None) -> None:
    """--model."""
    text = f"a model inside the package ({', '.join(SHIPPED)}), a --workdir of a training (its best checkpoint by validation PSNR, else"
    text += " its newest), one checkpoint, or an exported model; also gs:// and s3://" + (f"; default {default}" if default else "")
    required = required and default is None
    parser.add_argument("--model", type=model, required=required, default=default, metavar="NAME_OR_PATH", help=text)


def declare_tile(parser: argparse.ArgumentParser, *, default: int) -> None:
    """--tile and --overlap."""
    parser.add_argument(
        "--tile", type=int, default=default, help=f"larger images are restored in tiles of so many pixels (default {default})"
    )
    parser.add_argument("--overlap", type=int, default=64, help="pixels by which tiles overlap (default 64)")


def declare_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    text = "where to restore: cpu, gpu, tpu, or one of several as gpu:1 (default jax's own)"
    parser.add_argument("--device", metavar="NAME", help=text)


def declare_processes(parser: argparse.ArgumentParser) -> None:
    """--coordinator, --num-processes and --process-id."""
    group = parser.add_argument_group("several processes as one run (found out by itself on TPU pods, under Slurm and Open MPI)")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="the machine of process 0 and a free port there, the same for all")
    group.add_argument("--num-processes", type=int, metavar="N", help="how many there are; 1: this one alone, whatever the cluster says")
    group.add_argument("--process-id", type=int, metavar="I", help="which one this is, from 0 to N-1")
