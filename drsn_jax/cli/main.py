"""drsn-jax VERB. Exit codes: 0 done, 2 the user's mistake, 1 our failure, 130 interrupted.

A verb is a function of its parsed arguments. Each verb imports its modules itself, so that `restore` does not wait for those of training.
"""

import argparse
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from drsn_jax import __version__
from drsn_jax.cli import bench, compare, complete, convert, evaluate, export, info, plot, prepare, push, restore, serve, train
from drsn_jax.cli.options import find_models
from drsn_jax.system.errors import explain, nearest
from drsn_jax.system.interrupts import EXIT_CODE, leave, twice_leaves


class Verb(NamedTuple):
    """One verb: its help line, examples, the function that declares its arguments, and the function that runs it (an exit code)."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    examples: tuple[str, ...]


VERBS = {
    "prepare": Verb(
        "check a data set and store it, or make pairs from videos or photographs",
        prepare.declare,
        prepare.run,
        ("drsn-jax prepare gopro --source=GOPRO_Large.zip", "drsn-jax prepare video --source=CLIP.mp4 --output=DIR"),
    ),
    "train": Verb(
        "train a generator and its critic, or resume a training",
        train.declare,
        train.run,
        (
            "drsn-jax train --config=demo --workdir=runs/demo",
            "drsn-jax train --config=best --workdir=runs/gopro --config.train_dir=gopro:train",
        ),
    ),
    "evaluate": Verb(
        "score a model on blurred images, by a benchmark's protocol",
        evaluate.declare,
        evaluate.run,
        (
            "drsn-jax evaluate --model=small --blurred=DIR --sharp=DIR2 --output=report",
            "drsn-jax evaluate --model=runs/gopro --data=gopro:test --noise-sweep --output=report",
        ),
    ),
    "plot": Verb(
        "draw a training's curves, or the thresholds over an image",
        plot.declare,
        plot.run,
        ("drsn-jax plot runs/demo", "drsn-jax plot small --image=photo.jpg --output=thresholds.svg"),
    ),
    "compare": Verb(
        "show which differences between two evaluations are more than chance",
        compare.declare,
        compare.run,
        ("drsn-jax compare report_a report_b", "drsn-jax compare report report --version=NAFNet,restored --by=scene"),
    ),
    "convert": Verb(
        "convert weights of Keras or PyTorch into a model, or a model into Keras weights",
        convert.declare,
        convert.run,
        ("drsn-jax convert --input=generator.h5 --output=runs/keras", "drsn-jax convert --input=runs/keras --output=generator.weights.h5"),
    ),
    "export": Verb(
        "write a generator as StableHLO, SavedModel, TFLite, ONNX or compact float16 weights",
        export.declare,
        export.run,
        (
            "drsn-jax export --model=runs/gopro --output=model.stablehlo",
            "drsn-jax export --model=runs/gopro --format=compact --output=weights",
        ),
    ),
    "push": Verb(
        "put a model on the Hugging Face Hub, for --model=hf://OWNER/NAME",
        push.declare,
        push.run,
        (
            "drsn-jax push --model=runs/gopro --repo=OWNER/NAME",
            "drsn-jax push --model=runs/gopro --repo=OWNER/NAME --license=mit --private",
        ),
    ),
    "restore": Verb(
        "restore photographs and videos",
        restore.declare,
        restore.run,
        ("drsn-jax restore photo.jpg holiday/", "drsn-jax restore --model=base --panel photo.jpg --output=restored"),
    ),
    "serve": Verb(
        "serve a web page on this machine that restores photographs",
        serve.declare,
        serve.run,
        ("drsn-jax serve", "drsn-jax serve --model=base --port=9000"),
    ),
    "bench": Verb(
        "time training, inference and reading images, beside Keras or alone",
        bench.declare,
        bench.run,
        ("drsn-jax bench --against=keras", "drsn-jax bench --config=best --rows=training-step,inference --output=step.json"),
    ),
    "info": Verb(
        "print versions, devices, the keys of a configuration, and its networks' parameters and costs",
        info.declare,
        info.run,
        ("drsn-jax info --environment", "drsn-jax info --config=best --fit=8GB"),
    ),
    "complete": Verb(
        "print a script by which a shell completes this command line",
        complete.declare,
        complete.run,
        ("drsn-jax complete bash", "drsn-jax complete zsh"),
    ),
}


_DASHED_NAME = re.compile(r"-[^-].*\.[A-Za-z]\w*", re.DOTALL)  # such as -dash.jpg: no option has one dash and a suffix


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, with the command for the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(_fail(f"{message}; see `{self.prog} --help`", code=2))


def run_process() -> NoReturn:
    """Run the command line of this process, and end it."""
    try:
        with twice_leaves():
            code = main()
    except KeyboardInterrupt:  # before the verb began
        code = _fail("interrupted", code=EXIT_CODE)
    if code == EXIT_CODE:
        leave(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's arguments) and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Pillow warns of damage that it can repair. Damage that it cannot repair is an InputError with the name of the file.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    parser = make_parser()
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
    arguments.overrides, arguments.command, arguments.parser = overrides, shlex.join(["drsn-jax", *argv]), parser
    try:
        find_models(arguments)
        return VERBS[arguments.verb].run(arguments)
    except BrokenPipeError:  # the reader of a pipe, such as `| head`, has ended
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


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line, with one subparser per verb."""
    parser = _Parser(prog="drsn-jax", description="Blind motion deblurring in JAX.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"drsn-jax {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        options: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        subparser = verbs.add_parser(name, help=verb.help, description=f"{verb.help[:1].upper()}{verb.help[1:]}.", **options)
        verb.declare(subparser)
        examples = "\n".join(("Examples:", *(f"  {example}" for example in verb.examples)))
        subparser.epilog = f"{examples}\n\n{subparser.epilog}" if subparser.epilog else examples
    return parser
