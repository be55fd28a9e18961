"""drsn-jax info."""

import argparse
import sys

from drsn_jax.cli.options import declare_config, declare_model


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_config(parser, default="default")
    declare_model(parser, required=False)
    parser.add_argument(
        "--costs",
        action="store_true",
        help="also GMACs, peak memory and seconds of both networks at 256x256 and 1280x720 (compiles and runs them)",
    )
    parser.add_argument(
        "--fit",
        metavar="SIZE",
        help="propose batch, crop and remat for a card of that size, such as 8GB, by compiling (a few minutes on two CPU cores);"
        " here: precision and batch for the devices found",
    )
    parser.add_argument("--memory", action="store_true", help="a Markdown table of the memory of a training step (compiles 16 programs)")


def run(arguments: argparse.Namespace) -> int:
    """Describes the installation and a configuration or model, or what a training of a configuration needs."""
    if arguments.fit is not None or arguments.memory:
        return _plan_training(arguments)
    from drsn_jax.planning.description import describe

    text = describe(config=arguments.config, overrides=arguments.overrides, model=arguments.model, costs=arguments.costs)
    sys.stdout.write(text)
    return 0


def _plan_training(arguments: argparse.Namespace) -> int:
    from drsn_jax.config.files import load_config
    from drsn_jax.planning.devices import describe_here
    from drsn_jax.planning.fit import describe_fit
    from drsn_jax.planning.memory import memory_table, parse_size
    from drsn_jax.system.errors import InputError
    from drsn_jax.system.progress import Progress

    if arguments.model is not None:
        raise InputError("--fit and --memory are of a training: leave --model away, and name its configuration (--config=NAME).")
    if arguments.costs:
        raise InputError("--costs is of restoring an image, --fit and --memory are of a training: ask for one of both.")
    here = arguments.fit == "here"
    size = None if arguments.fit is None or here else parse_size(arguments.fit)
    config, progress = load_config(arguments.config, arguments.overrides), Progress()
    if arguments.memory:
        sys.stdout.write(memory_table(config, name=arguments.config, say=progress))
    options = {"name": arguments.config, "overrides": arguments.overrides}
    if here:
        sys.stdout.write(describe_here(config, say=progress, **options))
    if size is not None:
        sys.stdout.write(describe_fit(config, size=size, say=progress, **options))
    progress.close()
    return 0
