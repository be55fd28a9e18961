"""drsn-jax info."""

import argparse
import sys

from drsn_jax.cli.options import declare_config, declare_json, declare_model, print_json
from drsn_jax.system.errors import InputError


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    declare_config(parser, default="default")
    declare_model(parser, required=False)
    environment = "print only versions, system, devices and processor, for a bug report"
    parser.add_argument("--environment", action="store_true", help=environment)
    declare_json(parser, printed="the environment, the configuration's keys and the networks' parameters")
    planning = parser.add_argument_group("costs and memory (each compiles the networks)")
    costs = "also run both networks at 256x256 and 1280x720 and print GMACs, peak memory and seconds"
    planning.add_argument("--costs", action="store_true", help=costs)
    fit = "propose batch, crop and remat for a card of this size, such as 8GB; takes minutes on two CPU cores."
    fit += " `here`: precision, batch, crop and remat for the devices found"
    planning.add_argument("--fit", metavar="SIZE", help=fit)
    memory = "print a Markdown table of the memory of a training step; compiles 16 programs"
    planning.add_argument("--memory", action="store_true", help=memory)


def run(arguments: argparse.Namespace) -> int:
    """Describe the installation, and a configuration or model, or the memory and settings of a training."""
    if arguments.fit is not None or arguments.memory:
        return _plan_training(arguments)
    if arguments.environment:
        return _print_environment(arguments)
    from drsn_jax.planning.description import describe, describe_as_json

    if arguments.json and arguments.costs:
        raise InputError("--costs is only available as a table; omit --json.")
    options = {"config": arguments.config, "overrides": arguments.overrides, "model": arguments.model}
    if arguments.json:
        print_json(describe_as_json(**options))
        return 0
    sys.stdout.write(describe(**options, costs=arguments.costs))
    return 0


def _print_environment(arguments: argparse.Namespace) -> int:
    from drsn_jax.planning.environment import format_environment, read_environment

    environment = read_environment()
    if arguments.json:
        print_json(environment)
    else:
        sys.stdout.write(format_environment(environment))
    return 0


def _plan_training(arguments: argparse.Namespace) -> int:
    from drsn_jax.config.files import load_config
    from drsn_jax.planning.devices import describe_here
    from drsn_jax.planning.fit import describe_fit
    from drsn_jax.planning.memory import memory_table, parse_size
    from drsn_jax.system.progress import Progress

    if arguments.model is not None:
        raise InputError("--fit and --memory describe a training; omit --model and give a configuration (--config=NAME).")
    if arguments.costs or arguments.environment or arguments.json:
        raise InputError("--fit and --memory describe a training; omit --costs, --environment and --json.")
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
