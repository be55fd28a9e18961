"""drsn-jax compare."""

import argparse
import sys

from drsn_jax.cli.options import place
from drsn_jax.system.errors import InputError


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("first", type=place, metavar="A", help="metrics.json of an evaluation, or its folder")
    parser.add_argument("second", type=place, metavar="B", help="the other one, of the same images")
    parser.add_argument(
        "--version",
        default="restored",
        metavar="A[,B]",
        help="what is compared of each: restored (default), or a method's name; `compare R R --version=theirs,restored`: in one report",
    )
    parser.add_argument("--by", choices=("image", "scene"), default="image", help="what is resampled: images, or whole scenes (folders)")
    parser.add_argument("--resamples", type=int, default=10_000, help="how many times (default 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Prints which differences exceed the noise."""
    from drsn_jax.evaluation.report.comparison import compare_summaries, format_differences
    from drsn_jax.evaluation.report.report import read_summary

    if not 100 <= arguments.resamples <= 1_000_000:
        raise InputError(f"--resamples={arguments.resamples} cannot be; use 100 to 1,000,000.")
    if arguments.seed < 0:
        raise InputError(f"--seed={arguments.seed} cannot be; use 0 or more.")
    first, second = read_summary(arguments.first), read_summary(arguments.second)
    versions = (arguments.version.partition(",")[0], arguments.version.rpartition(",")[2])
    options = {"by": arguments.by, "resamples": arguments.resamples, "seed": arguments.seed, "versions": versions}
    differences = compare_summaries(first, second, **options)
    names = (f"{arguments.first} ({versions[0]})", f"{arguments.second} ({versions[1]})")
    sys.stdout.write(format_differences(differences, names=names, images=first["images"], by=arguments.by) + "\n")
    return 0
