"""drsn-jax compare."""

import argparse
import sys

from drsn_jax.cli.options import declare_json, place, print_json
from drsn_jax.system.errors import InputError


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("first", type=place, metavar="A", help="metrics.json of an evaluation, or its folder")
    parser.add_argument("second", type=place, metavar="B", help="another one of the same images")
    version = (
        "the version to compare: restored (default), input, or the name of a compared method. Give two names to compare within one report"
    )
    parser.add_argument("--version", default="restored", metavar="A[,B]", help=version)
    bootstrap = parser.add_argument_group("paired bootstrap")
    bootstrap.add_argument("--by", choices=("image", "scene"), default="image", help="resample images (default), or whole scenes (folders)")
    bootstrap.add_argument("--resamples", type=int, default=10_000, metavar="N", help="number of resamples (default 10,000)")
    bootstrap.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the resampling (default 0)")
    declare_json(parser, printed="the differences")


def run(arguments: argparse.Namespace) -> int:
    """Print which differences exceed the noise."""
    from drsn_jax.evaluation.report.comparison import compare_summaries, format_differences
    from drsn_jax.evaluation.report.report import read_summary

    if not 100 <= arguments.resamples <= 1_000_000:
        raise InputError(f"--resamples={arguments.resamples} is out of range; use 100 to 1,000,000.")
    if arguments.seed < 0:
        raise InputError(f"--seed={arguments.seed} is negative; use 0 or more.")
    first, second = read_summary(arguments.first), read_summary(arguments.second)
    versions = (arguments.version.partition(",")[0], arguments.version.rpartition(",")[2])
    options = {"by": arguments.by, "resamples": arguments.resamples, "seed": arguments.seed, "versions": versions}
    differences = compare_summaries(first, second, **options)
    if arguments.json:
        print_json([one._asdict() | {"metric": one.metric.name, "exceeds_noise": one.exceeds_noise} for one in differences])
        return 0
    names = (f"{arguments.first} ({versions[0]})", f"{arguments.second} ({versions[1]})")
    sys.stdout.write(format_differences(differences, names=names, images=first["images"], by=arguments.by) + "\n")
    return 0
