"""`python tools/projection --config=best`: a Markdown table of the training time on TPUs v5e and H100s. Runs no training."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax

from drsn_jax.config import load_config
from drsn_jax.system.progress import Progress
from projection.report import describe_projection
from projection.work import DEVICES
from study import print_table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Exit codes as in `drsn-jax`."""
    parser = argparse.ArgumentParser(prog="projection", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", default="best", help="a configuration's name or file; --config.KEY=VALUE changes a value")
    arguments, overrides = parser.parse_known_args(argv)
    if jax.config.jax_num_cpu_devices < DEVICES:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_num_cpu_devices", DEVICES)  # before jax computes anything

    def table_fn(progress: Progress) -> str:
        return describe_projection(load_config(arguments.config, overrides), name=arguments.config, say=progress)

    return print_table(table_fn, name="projection")


if __name__ == "__main__":
    sys.exit(main())
