"""drsn-jax train."""

import argparse
import os

from drsn_jax.commands.options import declare_config, declare_processes, path


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_config(parser, default=None)
    parser.add_argument("--workdir", type=path, required=True, help="folder of the run: it resumes from there by itself")
    declare_processes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Trains, or goes on with it."""
    # Before TensorFlow is imported, if it is: it greets on stderr otherwise. Images are decoded no slower without oneDNN.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from drsn_jax.config import load_config
    from drsn_jax.processes import joined
    from drsn_jax.training.train import train_and_evaluate

    config = load_config(arguments.config, arguments.overrides)
    with joined(coordinator=arguments.coordinator, num_processes=arguments.num_processes, process_id=arguments.process_id):
        train_and_evaluate(config, arguments.workdir)
    return 0
