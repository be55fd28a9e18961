"""drsn-jax restore."""

import argparse

from drsn_jax.commands.options import declare_model, declare_tile, path


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_model(parser)
    parser.add_argument("inputs", nargs="+", type=path, metavar="INPUT", help="photographs, and folders of photographs")
    parser.add_argument("--output", type=path, required=True, metavar="DIR", help="folder for the results, named as the inputs")
    parser.add_argument("--output-format", metavar="TYPE", help="write this type of file (png, jpg, ...) instead of the input's")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    declare_tile(parser, default=768)


def run(arguments: argparse.Namespace) -> int:
    """Restores photographs; 2 where some could not be."""
    from drsn_jax.restoration.model import load_model
    from drsn_jax.restoration.restore import restore_files

    model = load_model(arguments.model)
    report = restore_files(
        arguments.inputs,
        output=arguments.output,
        predict_fn=model.predict_fn,
        stride=model.stride,
        tile=arguments.tile,
        overlap=arguments.overlap,
        overwrite=arguments.overwrite,
        output_format=arguments.output_format,
    )
    return 2 if report.failed else 0
