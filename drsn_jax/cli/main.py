"""drsn-jax VERB. Exit codes: 0 done, 2 the user's mistake, 1 our failure, 130 interrupted.

A verb is a function of its parsed arguments. Each imports inside itself: `restore` must not wait for the modules of training.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from drsn_jax import __version__
from drsn_jax.cli import bench, compare, convert, evaluate, export, info, prepare, restore, serve, train
from drsn_jax.config.values import nearest
from drsn_jax.system.errors import explain
from drsn_jax.system.interrupts import EXIT_CODE, leave, twice_leaves


class Verb(NamedTuple):
    """One verb: its line in the help, what declares its arguments, what runs it (returning an exit code)."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


VERBS = {
    "prepare": Verb("check a data set and store it, or make pairs of video or photographs", prepare.declare, prepare.run),
    "train": Verb("train a generator and its critic, or go on with it", train.declare, train.run),
    "evaluate": Verb("score a model on blurred images, by the benchmark's protocol", evaluate.declare, evaluate.run),
    "compare": Verb("say which differences between two evaluations exceed the noise", compare.declare, compare.run),
    "convert": Verb("weights of Keras and PyTorch into ours, and ours into Keras", convert.declare, convert.run),
    "export": Verb("write a generator as StableHLO, SavedModel, TFLite or compact float16 weights", export.declare, export.run),
    "restore": Verb("restore photographs and videos", restore.declare, restore.run),
    "serve": Verb("a web page on this machine that restores photographs", serve.declare, serve.run),
    "bench": Verb("time training, inference and reading images, beside Keras or alone", bench.declare, bench.run),
    "info": Verb("versions, devices, a configuration's keys and its networks' parameters and costs", info.declare, info.run),
}


_DASHED_NAME = re.compile(r"-[^-].*\.[A-Za-z]\w*", re.DOTALL)  # -dash.jpg: no option of ours has one dash and a suffix


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything else here does, and where to look."""

    def error(self, message: str) -> NoReturn:
        self.exit(_fail(f"{message}; see `{self.prog} --help`", code=2))


def run_process() -> NoReturn:
    """Runs the command line of this process, and ends it."""
    try:
        with twice_leaves():
            code = main()
    except KeyboardInterrupt:  # before the verb began
        code = _fail("interrupted", code=EXIT_CODE)
    if code == EXIT_CODE:
        leave(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's) and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _make_parser()
    if not argv:
        parser.print_help()
        return 0
    if "--" not in argv and (dashed := [argument for argument in argv if _DASHED_NAME.fullmatch(argument)]):
        return _fail(f"{dashed[0]} is taken for an option; put the name after --, as in `drsn-jax {argv[0]} -- {dashed[0]}`", code=2)
    arguments, rest = parser.parse_known_args(argv)
    overrides = [argument for argument in rest if argument.startswith("--config.")]
    if overrides and "config" not in arguments:
        parser.error(f"{overrides[0]}: `{arguments.verb}` takes no configuration; it reads the one stored with the model")
    if incomplete := [override for override in overrides if "=" not in override]:
        parser.error(f"{incomplete[0]} has no value; write {incomplete[0]}=VALUE")
    if unknown := [argument for argument in rest if argument not in overrides]:
        known = [f"--{name.replace('_', '-')}" for name in vars(arguments) if name != "verb"]
        hint = nearest(unknown[0].split("=")[0], known)
        return _fail(f"{arguments.verb}: unrecognized arguments: {' '.join(unknown)}{hint}; see `drsn-jax {arguments.verb} --help`", code=2)
    arguments.overrides, arguments.command = overrides, shlex.join(["drsn-jax", *argv])
    try:
        return VERBS[arguments.verb].run(arguments)
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is None:
            raise
        return _fail(explained[0], code=explained[1])


def _fail(message: str, *, code: int) -> int:
    sys.stderr.write(f"drsn-jax: {message}\n")
    return code


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="drsn-jax", description="Blind motion deblurring in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"drsn-jax {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        verb.declare(verbs.add_parser(name, help=verb.help, description=verb.help, allow_abbrev=False))
    return parser
