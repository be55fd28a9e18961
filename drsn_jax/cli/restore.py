"""drsn-jax restore."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from drsn_jax.cli.options import declare_device, declare_model, declare_tile, path
from drsn_jax.system.errors import InputError
from drsn_jax.weights.shipped import SHIPPED


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_model(parser, default=SHIPPED[0])
    parser.add_argument("inputs", nargs="+", type=path, metavar="INPUT", help="photographs, videos, and folders of them")
    text = "folder for the results, named as the inputs, or the name of the one result; without it they lie beside the inputs, as"
    parser.add_argument("--output", type=path, metavar="DIR_OR_FILE", help=f"{text} photo.restored.jpg and folder.restored/")
    parser.add_argument("--output-format", metavar="TYPE", help="write this type of file (png, jpg, ...) instead of the input's")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    text = "write a picture of before and after beside each restored photograph too, as RESULT.panel.png"
    parser.add_argument("--panel", action="store_true", help=text)
    text = "from 0, the photograph as it is, to 1, wholly restored (default 1)"
    parser.add_argument("--strength", type=float, default=1.0, metavar="S", help=text)
    text = "restore each photograph turned and mirrored in all eight ways and average them; takes eight times as long"
    parser.add_argument("--self-ensemble", action="store_true", help=text)
    declare_device(parser)
    declare_tile(parser, default=768)
    parser.set_defaults(tile=None, overlap=None)  # so that --whole knows whether they were given
    text = "restore each image whole, its rows spread over all devices of this machine, or of --device's kind, instead of in tiles"
    parser.add_argument("--whole", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Restores photographs and videos; 2 where some could not be."""
    from drsn_jax.restoration.restore import restore_files

    report = restore_files(
        arguments.inputs,
        output=arguments.output,
        restore_fn=read_restore_fn(arguments),
        overwrite=arguments.overwrite,
        output_format=arguments.output_format,
        panel=arguments.panel,
    )
    total = len(report.failed) + len(report.restored)
    if report.failed and total > 1:  # their lines may have scrolled away among the others
        sys.stderr.write(f"drsn-jax: {len(report.failed)} of {total} were not restored; their lines above say why.\n")
    return 2 if report.failed else 0


def read_restore_fn(arguments: argparse.Namespace) -> Callable[[Any], Any]:
    """The `RestoreFn` of --model, --device, --tile, --overlap, --whole, --strength and --self-ensemble; reads the model."""
    from drsn_jax.ops.devices import find_device
    from drsn_jax.restoration.core.restorer import make_restore_fn
    from drsn_jax.weights.model import load_model

    tiling: dict[str, Any] = {name: getattr(arguments, name) for name in ("tile", "overlap") if getattr(arguments, name) is not None}
    if arguments.whole:
        model, tiling = _load_whole(arguments, tiling), {"tile": None}
    else:
        model = load_model(arguments.model, device=find_device(arguments.device))
    return make_restore_fn(model, strength=arguments.strength, self_ensemble=arguments.self_ensemble, **tiling)


def _load_whole(arguments: argparse.Namespace, tiling: dict[str, Any]) -> Any:
    from drsn_jax.ops.devices import find_devices
    from drsn_jax.restoration.core.spread import make_spread_fn
    from drsn_jax.weights.model import Model, read_generator

    if tiling:
        raise InputError(f"--whole restores without tiles; leave {' and '.join(f'--{name}' for name in tiling)} away, or --whole.")
    if arguments.model.is_file():
        raise InputError(f"{arguments.model} is a file, whose program runs on one device; give --whole a workdir or a checkpoint.")
    devices = find_devices(arguments.device)
    generator, variables, config, info = read_generator(arguments.model)
    predict_fn = make_spread_fn(generator, variables, devices=devices)
    over = f"its rows over {len(devices)} devices" if len(devices) > 1 else "on one device"
    sys.stderr.write(f"Each image whole, {over} ({devices[0].device_kind}).\n")
    return Model(predict_fn, generator.stride, config, info)
