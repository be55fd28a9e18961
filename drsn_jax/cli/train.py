"""drsn-jax train."""

import argparse
import contextlib
import os

from drsn_jax.cli.options import declare_config, declare_processes, declare_quiet, place


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    declare_config(parser, default=None)
    parser.add_argument(
        "--workdir", type=place, required=True, metavar="DIR", help="folder of the run, also gs:// or s3://; an existing run is resumed"
    )
    parser.add_argument("--minutes", type=minutes, metavar="N", help="save and stop after N minutes; the same command resumes")
    declare_quiet(parser, shown="warnings and errors")
    declare_processes(parser)


def minutes(text: str) -> float:
    """Parse a positive number; argparse reports any other text."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a training time; give minutes, such as 25")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Train, or resume a training."""
    # Set before TensorFlow may be imported, which prints a greeting to stderr. Decoding is as fast without oneDNN.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from drsn_jax.config.files import load_config, overridden_keys
    from drsn_jax.run.loop import train_and_evaluate
    from drsn_jax.run.workdir import keep_stored
    from drsn_jax.system.processes import joined

    config = load_config(arguments.config, arguments.overrides)
    processes = {name: getattr(arguments, name) for name in ("coordinator", "num_processes", "process_id")}
    with contextlib.ExitStack() as stack:
        if arguments.quiet:  # progress is on stdout, warnings and errors on stderr
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(joined(**processes))
        config = keep_stored(config, arguments.workdir, given=overridden_keys(arguments.overrides))
        train_and_evaluate(config, arguments.workdir, minutes=arguments.minutes, command=arguments.command)
    return 0
