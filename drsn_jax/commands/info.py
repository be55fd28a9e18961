"""drsn-jax info."""

import argparse
import sys

from drsn_jax.commands.options import declare_config, declare_model


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_config(parser, default="default")
    declare_model(parser, required=False)
    parser.add_argument(
        "--costs",
        action="store_true",
        help="also GMACs, peak memory and seconds of both networks at 256x256 and 1280x720 (compiles and runs them)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Describes the installation and a configuration or model."""
    from drsn_jax.info import describe

    text = describe(config=arguments.config, overrides=arguments.overrides, model=arguments.model, costs=arguments.costs)
    sys.stdout.write(text)
    return 0
