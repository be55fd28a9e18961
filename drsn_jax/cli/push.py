"""drsn-jax push."""

import argparse
import sys

from drsn_jax.cli.options import declare_model


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    declare_model(parser)
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="repository to write to, made if missing")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--license", metavar="ID", help="licence of the model, such as apache-2.0, for a card without a header")
    parser.add_argument("--message", metavar="TEXT", help="commit message")


def run(arguments: argparse.Namespace) -> int:
    """Push a model and print the address for restoring with it."""
    from drsn_jax.interop.hub import push_model

    options = {"private": arguments.private, "licence": arguments.license, "message": arguments.message}
    address = push_model(arguments.model, arguments.repo, **options)
    sys.stdout.write(f"Pushed. Restore with it: drsn-jax restore --model={address} PHOTO ...\n")
    return 0
