"""drsn-jax bench."""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from drsn_jax.cli.options import declare_config, path
from drsn_jax.system.errors import InputError


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    what = parser.add_argument_group("measurement")
    declare_config(parser, default="paper")
    keras = "keras: every installed back end; or by name: keras-tensorflow, keras-jax, keras-torch"
    what.add_argument("--against", metavar="NAME,...", help=keras)
    what.add_argument("--rows", metavar="NAME,...", help="rows by name, such as training-step,best-batch,critic-part (default: all)")
    what.add_argument("--batch-size", type=int, metavar="N", help="images in a step and in one inference (default: the configuration's)")
    what.add_argument("--crop-size", type=int, metavar="PIXELS", help="side of the images (default: the configuration's)")
    how = parser.add_argument_group("time limits")
    how.add_argument("--seconds", type=float, default=30.0, metavar="S", help="time for the samples of one row (default 30)")
    how.add_argument(
        "--timeout", type=float, default=900.0, metavar="S", help="end a process that gives no answer for this long (default 900)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=path, default=Path("bench.json"), metavar="FILE.json", help="file to write (default bench.json)")
    output.add_argument(
        "--profile", type=path, metavar="DIR", help="write a trace of our step and inference, for XProf and Perfetto, into this folder"
    )
    output.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    """Print the table and write the document. Returns 1 if one of our own measurements failed."""
    from drsn_jax.benchmark.bench import failures, run_bench
    from drsn_jax.benchmark.bench_table import format_bench
    from drsn_jax.config.files import load_config
    from drsn_jax.system.files import write_atomically

    _check(arguments)
    options = {name: getattr(arguments, name) for name in ("against", "rows", "batch_size", "crop_size", "seconds", "timeout", "profile")}
    config = load_config(arguments.config, arguments.overrides)
    document = run_bench(config, **options, command=arguments.command, say=_say)
    write_atomically(arguments.output, f"{json.dumps(document, indent=1)}\n".encode())
    sys.stdout.write(f"{format_bench(document)}\nJSON: {arguments.output}\n")
    for file in document.get("profile", {}).get("files", ()):
        sys.stdout.write(f"Trace: {file}\n")
    failed = failures(document)
    sys.stderr.write("".join(f"drsn-jax: failed: {failure}\n" for failure in failed))
    return 1 if failed else 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise InputError for mistakes that would otherwise appear after minutes."""
    output, profile = arguments.output, arguments.profile
    if output.is_dir() or (output.exists() and not arguments.overwrite):
        raise InputError(f"{output} already exists; choose another --output" + ("." if output.is_dir() else ", or --overwrite."))
    if profile is not None and profile.exists() and not profile.is_dir():
        raise InputError(f"--profile={profile} is a file; give a folder.")
    there = next(parent for parent in output.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"--output={output}: {there} is not a writable folder; choose another --output.")
    for name in ("batch_size", "crop_size", "seconds", "timeout"):
        value = getattr(arguments, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InputError(f"--{name.replace('_', '-')}={value} is out of range; use more than 0.")


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()
