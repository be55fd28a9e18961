"""drsn-jax restore."""

import argparse
import sys
from typing import Any

from drsn_jax.commands.options import declare_model, declare_tile, path
from drsn_jax.errors import InputError
from drsn_jax.shipped import SHIPPED


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_model(parser, default=SHIPPED[0])
    parser.add_argument("inputs", nargs="+", type=path, metavar="INPUT", help="photographs, and folders of photographs")
    parser.add_argument("--output", type=path, required=True, metavar="DIR", help="folder for the results, named as the inputs")
    parser.add_argument("--output-format", metavar="TYPE", help="write this type of file (png, jpg, ...) instead of the input's")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    declare_tile(parser, default=768)
    parser.set_defaults(tile=None, overlap=None)  # so that --whole knows whether they were given
    text = "restore each image whole, its rows spread over all devices of this machine, instead of in tiles"
    parser.add_argument("--whole", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Restores photographs; 2 where some could not be."""
    from drsn_jax.restoration.restore import restore_files

    tiling = {name: getattr(arguments, name) for name in ("tile", "overlap") if getattr(arguments, name) is not None}
    model = _load_whole(arguments, tiling) if arguments.whole else _load_for_tiles(arguments, tiling)
    report = restore_files(
        arguments.inputs,
        output=arguments.output,
        overwrite=arguments.overwrite,
        output_format=arguments.output_format,
        **model,
    )
    return 2 if report.failed else 0


def _load_for_tiles(arguments: argparse.Namespace, tiling: dict[str, int]) -> dict[str, Any]:
    from drsn_jax.restoration.model import load_model

    model = load_model(arguments.model)
    return {"predict_fn": model.predict_fn, "stride": model.stride, **tiling}


def _load_whole(arguments: argparse.Namespace, tiling: dict[str, int]) -> dict[str, Any]:
    import jax

    from drsn_jax.restoration.model import read_generator
    from drsn_jax.restoration.spread import make_spread_fn

    if tiling:
        raise InputError(f"--whole restores without tiles; leave {' and '.join(f'--{name}' for name in tiling)} away, or --whole.")
    if arguments.model.is_file():
        raise InputError(f"{arguments.model} is a file, whose program runs on one device; give --whole a workdir or a checkpoint.")
    stored, devices = read_generator(arguments.model), jax.local_devices()
    predict_fn = make_spread_fn(stored.generator, stored.variables, devices=devices)
    over = f"its rows over {len(devices)} devices" if len(devices) > 1 else "on the one device there is"
    sys.stderr.write(f"Each image whole, {over} ({devices[0].device_kind}).\n")
    return {"predict_fn": predict_fn, "stride": stored.generator.stride, "tile": None}
