"""drsn-jax push."""

import argparse
import sys

from drsn_jax.cli.options import declare_model


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_model(parser)
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="the repository to write to; it is made if it is not there")
    parser.add_argument("--private", action="store_true", help="a new repository is for nobody else")
    parser.add_argument("--license", metavar="ID", help="of the model, for the header of a card without one, such as apache-2.0")
    parser.add_argument("--message", metavar="TEXT", help="the commit's message")


def run(arguments: argparse.Namespace) -> int:
    """Pushes a model and prints the address to restore with."""
    from drsn_jax.weights.hub import push_model

    options = {"private": arguments.private, "licence": arguments.license, "message": arguments.message}
    address = push_model(arguments.model, arguments.repo, **options)
    sys.stdout.write(f"Pushed. Restore with it: drsn-jax restore --model={address} PHOTO ...\n")
    return 0
