"""drsn-jax compare."""

import argparse
import sys

from drsn_jax.commands.options import path
from drsn_jax.errors import InputError


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("first", type=path, metavar="A", help="metrics.json of an evaluation, or its folder")
    parser.add_argument("second", type=path, metavar="B", help="the other one, of the same images")
    parser.add_argument(
        "--version", default="restored", metavar="NAME", help="what is compared: restored (default), or a compared method's name"
    )
    parser.add_argument("--by", choices=("image", "scene"), default="image", help="what is resampled: images, or whole scenes (folders)")
    parser.add_argument("--resamples", type=int, default=10_000, help="how many times (default 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Prints which differences exceed the noise."""
    from drsn_jax.evaluation.bootstrap import compare_summaries, format_differences
    from drsn_jax.evaluation.report import read_summary

    if arguments.resamples < 100:
        raise InputError(f"--resamples={arguments.resamples} is too few for an interval; use 100 or more.")
    if arguments.seed < 0:
        raise InputError(f"--seed={arguments.seed} cannot be; use 0 or more.")
    first, second = read_summary(arguments.first), read_summary(arguments.second)
    options = {"by": arguments.by, "resamples": arguments.resamples, "seed": arguments.seed, "version": arguments.version}
    differences = compare_summaries(first, second, **options)
    names = (str(arguments.first), str(arguments.second))
    sys.stdout.write(format_differences(differences, names=names, images=first["images"], by=arguments.by) + "\n")
    return 0
