"""drsn-jax convert."""

import argparse
import os
import sys

from drsn_jax.cli.options import declare_config, path
from drsn_jax.system.errors import InputError


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--input",
        type=path,
        required=True,
        metavar="FILE_OR_MODEL",
        help="a generator's weights, or a model. Weights: .keras, .weights.h5, .h5 (Keras 2), or .pth or .safetensors (PyTorch)."
        " A model: the --workdir of a training, or one of its checkpoints",
    )
    parser.add_argument(
        "--output",
        type=path,
        required=True,
        metavar="MODEL_OR_FILE",
        help="for a weight file: the new folder, for use as --model. For a model: a .weights.h5 or .keras file",
    )
    parser.add_argument(
        "--critic", type=path, metavar="FILE", help="the critic's Keras file: read along with a weight file, written along with a model"
    )
    declare_config(parser, default="keras_reference")


def run(arguments: argparse.Namespace) -> int:
    """Convert weights. Nothing is written if they do not fit."""
    # Every Keras back end can write Keras' files, and jax is always installed. Keras imports TensorFlow all the same if it is installed,
    # and TensorFlow prints its greeting to stderr.
    for name, value in {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}.items():
        os.environ.setdefault(name, value)
    from drsn_jax.config.files import load_config
    from drsn_jax.interop.conversion import convert_files, convert_model

    if not arguments.input.exists():
        raise InputError(f"There is no {arguments.input}; give a weight file, or a --workdir of a training.")
    if arguments.input.is_dir():
        if arguments.overrides:
            raise InputError(f"{arguments.overrides[0]}: a model already has a configuration; omit this option.")
        lines = convert_model(arguments.input, arguments.output, critic=arguments.critic)
    else:
        config = load_config(arguments.config, arguments.overrides)
        options = {"critic": arguments.critic, "config": config, "overrides": arguments.overrides}
        lines = convert_files(arguments.input, arguments.output, **options)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
