"""drsn-jax restore."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from drsn_jax.cli.options import (
    declare_device,
    declare_dtype,
    declare_json,
    declare_model,
    declare_quiet,
    declare_tile,
    no_progress,
    path,
    print_json,
)
from drsn_jax.system.errors import InputError
from drsn_jax.weights.shipped import SHIPPED

if TYPE_CHECKING:
    from drsn_jax.weights.model import Model


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("inputs", nargs="+", type=path, metavar="INPUT", help="photographs, videos, and folders of them")
    output = parser.add_argument_group("output")
    text = "folder for the results, or the file for a single one. Default: beside the inputs, as photo.restored.jpg and folder.restored/"
    output.add_argument("--output", type=path, metavar="DIR_OR_FILE", help=text)
    output.add_argument("--output-format", metavar="TYPE", help="type of the results (png, jpg, ...); default: the input's")
    output.add_argument("--overwrite", action="store_true", help="replace existing files")
    output.add_argument("--panel", action="store_true", help="also write a picture of before and after, RESULT.panel.png")
    declare_quiet(output, shown="error messages")
    declare_json(output, printed="the lists of restored and failed files")
    model = parser.add_argument_group("model and strength")
    declare_model(model, default=SHIPPED[0])
    model.add_argument("--strength", type=float, default=1.0, metavar="S", help="share of the change, from 0 (none) to 1 (default)")
    text = "average the results of all eight turns and mirror images; takes eight times as long"
    model.add_argument("--self-ensemble", action="store_true", help=text)
    where = parser.add_argument_group("devices and tiles")
    declare_device(where)
    declare_dtype(where)
    declare_tile(where, default=768)
    parser.set_defaults(tile=None, overlap=None)  # so that --whole can tell whether they were given
    text = "restore each image without tiles, with its rows spread over all devices of the kind of --device"
    where.add_argument("--whole", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Restore photographs and videos. Returns 2 if some failed."""
    from drsn_jax.restoration.core.restorer import make_restore_fn
    from drsn_jax.restoration.restore import restore_files
    from drsn_jax.system.programs import keep_programs

    with keep_programs(), no_progress(arguments.quiet):
        model, options = _read_model(arguments)
        report = restore_files(
            arguments.inputs,
            output=arguments.output,
            restore_fn=make_restore_fn(model, **options),
            frame_fn=make_restore_fn(model, share_programs=False, **options),  # frames are many, of one size
            overwrite=arguments.overwrite,
            output_format=arguments.output_format,
            panel=arguments.panel,
        )
    if arguments.json:
        failed = [{"input": source, "error": message} for source, message in report.failed]
        print_json({"restored": report.restored, "failed": failed, "ignored": report.ignored})
    if arguments.quiet:
        sys.stderr.write("".join(f"drsn-jax: {message}\n" for _, message in report.failed))
        return 2 if report.failed else 0
    total = len(report.failed) + len(report.restored)
    if report.failed and total > 1:  # their messages may have scrolled away
        sys.stderr.write(f"drsn-jax: {len(report.failed)} of {total} were not restored; their lines above say why.\n")
    return 2 if report.failed else 0


def _read_model(arguments: argparse.Namespace) -> tuple["Model", dict[str, Any]]:
    """Return the model of --model, --device, --dtype and --whole, and the other options of `make_restore_fn`."""
    from drsn_jax.ops.devices import find_device
    from drsn_jax.weights.model import load_model

    options: dict[str, Any] = {name: getattr(arguments, name) for name in ("tile", "overlap") if getattr(arguments, name) is not None}
    if arguments.whole:
        model, options = _load_whole(arguments, options), {"tile": None}
    else:
        model = load_model(arguments.model, device=find_device(arguments.device), dtype=arguments.dtype)
    return model, options | {"strength": arguments.strength, "self_ensemble": arguments.self_ensemble}


def _load_whole(arguments: argparse.Namespace, tiling: dict[str, Any]) -> "Model":
    from drsn_jax.ops.devices import find_devices
    from drsn_jax.restoration.core.spread import make_spread_fn
    from drsn_jax.weights.model import Model, read_generator

    if tiling:
        raise InputError(f"--whole restores without tiles; omit {' and '.join(f'--{name}' for name in tiling)}, or --whole.")
    if arguments.model.is_file():
        raise InputError(f"{arguments.model} is an exported program for one device; --whole needs a workdir or a checkpoint.")
    devices = find_devices(arguments.device)
    generator, variables, config, info = read_generator(arguments.model, dtype=arguments.dtype or "float32")
    predict_fn = make_spread_fn(generator, variables, devices=devices)
    over = f"its rows over {len(devices)} devices" if len(devices) > 1 else "on one device"
    sys.stderr.write(f"Each image whole, {over} ({devices[0].device_kind}).\n")
    return Model(predict_fn, generator.stride, config, info)
