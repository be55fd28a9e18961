"""drsn-jax info."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

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
    parser.add_argument(
        "--fit",
        metavar="SIZE",
        help="propose batch, crop and remat for a card of that size, such as 8GB, by compiling (a few minutes on two CPU cores);"
        " here: precision and batch for the devices found",
    )
    parser.add_argument("--memory", action="store_true", help="a Markdown table of the memory of a training step (compiles 16 programs)")
    parser.add_argument(
        "--project",
        action="store_true",
        help="a Markdown table of what the training would take on TPUs v5e and H100s, computed and not measured (compiles two programs)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Describes the installation and a configuration or model, or what a training of a configuration needs."""
    if arguments.fit is not None or arguments.memory or arguments.project:
        return _plan_training(arguments)
    from drsn_jax.info import describe

    text = describe(config=arguments.config, overrides=arguments.overrides, model=arguments.model, costs=arguments.costs)
    sys.stdout.write(text)
    return 0


def _plan_training(arguments: argparse.Namespace) -> int:
    from drsn_jax.config import load_config
    from drsn_jax.devices import describe_here
    from drsn_jax.errors import InputError
    from drsn_jax.fit import describe_fit
    from drsn_jax.memory import memory_table, parse_size
    from drsn_jax.progress import Progress

    if arguments.model is not None:
        raise InputError("--fit, --memory and --project are of a training: leave --model away, and name its configuration (--config=NAME).")
    if arguments.costs:
        raise InputError("--costs is of restoring an image, --fit, --memory and --project are of a training: ask for one of both.")
    here = arguments.fit == "here"
    if here and arguments.project:
        raise InputError("--project shows jax eight CPU devices, which --fit=here would take for this machine's: ask for one of both.")
    size = None if arguments.fit is None or here else parse_size(arguments.fit)
    config, progress = load_config(arguments.config, arguments.overrides), Progress()
    if arguments.project:
        sys.stdout.write(_project(config, name=arguments.config, say=progress))
    if arguments.memory:
        sys.stdout.write(memory_table(config, name=arguments.config, say=progress))
    options = {"name": arguments.config, "overrides": arguments.overrides}
    if here:
        sys.stdout.write(describe_here(config, say=progress, **options))
    if size is not None:
        sys.stdout.write(describe_fit(config, size=size, say=progress, **options))
    progress.close()
    return 0


def _project(config: dict[str, Any], *, name: str, say: Callable[[str], None]) -> str:
    import jax

    from drsn_jax.projection.report import describe_projection
    from drsn_jax.projection.work import DEVICES

    # It is to be said before jax computes anything.
    if jax.config.jax_num_cpu_devices < DEVICES:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_num_cpu_devices", DEVICES)
    return describe_projection(config, name=name, say=say)
