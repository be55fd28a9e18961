"""drsn-jax train."""

import argparse
import os

from drsn_jax.cli.options import declare_config, declare_processes, place


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_config(parser, default=None)
    parser.add_argument("--workdir", type=place, required=True, help="folder of the run, also gs:// or s3://: it resumes from there")
    parser.add_argument("--minutes", type=minutes, metavar="N", help="stop after so many, saving; the same command goes on from there")
    declare_processes(parser)


def minutes(text: str) -> float:
    """A positive number; argparse says what is wrong with another."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time to train for; give minutes, such as 25")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on with it."""
    # Before TensorFlow is imported, if it is: it greets on stderr otherwise. Images are decoded no slower without oneDNN.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from drsn_jax.config.files import load_config
    from drsn_jax.run.loop import train_and_evaluate
    from drsn_jax.system.processes import joined

    config = load_config(arguments.config, arguments.overrides)
    with joined(coordinator=arguments.coordinator, num_processes=arguments.num_processes, process_id=arguments.process_id):
        train_and_evaluate(config, arguments.workdir, minutes=arguments.minutes, command=arguments.command)
    return 0
