"""The verb `complete`: print the completion script of a shell."""

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any

from drsn_jax.cli.options import path, place
from drsn_jax.system.errors import InputError
from drsn_jax.weights.shipped import SHIPPED

SHELLS = ("bash", "zsh", "fish", "tcsh")

# Bash splits words at "=", and the script of shtab only knows `--format onnx`. This function rewrites --format=onnx to that form.
_BASH_EQUALS = """
_drsn_jax_equals() {
  local i words=()
  for ((i = 0; i <= COMP_CWORD; i++)); do
    if [[ "${COMP_WORDS[i]}" != "=" ]]; then words+=("${COMP_WORDS[i]}"); elif ((i == COMP_CWORD)); then words+=(""); fi
  done
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
  _shtab_drsn_jax
}
complete -o bashdefault -F _drsn_jax_equals drsn-jax
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to print the script for")


def run(arguments: argparse.Namespace) -> int:
    """Print the script that completes the whole command line."""
    try:
        import shtab
    except ImportError as error:
        raise InputError(f"Completion needs shtab ({error}); pip install 'drsn-jax[completion]'.") from error
    from drsn_jax.config.files import config_names

    words = {"model": SHIPPED, "config": config_names()}
    for action in _actions(arguments.parser):
        if action.dest in words:
            action.complete = _files_and(action.dest, words[action.dest], shtab.FILE)
        elif action.type in (path, place):
            action.complete = shtab.FILE
        if arguments.shell == "zsh" and action.metavar:  # in zsh a colon ends the name of a value
            action.metavar = action.metavar.replace(":", "\\:")
    script = shtab.complete(arguments.parser, shell=arguments.shell)
    if arguments.shell == "bash":
        script += _BASH_EQUALS
    elif arguments.shell == "zsh":  # so that "=" may also precede the value of an option
        script = re.sub(r'^(\s*"--[\w-]+)(\[.*\]:)', r"\1=\2", script, flags=re.MULTILINE)
    sys.stdout.write(f"{script.rstrip()}\n")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """Yield the arguments of a parser and of all parsers below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)


def _files_and(name: str, words: Any, files: Any) -> dict[str, Any]:
    """Return the completion of an argument that is one of `words` or a file, for shtab."""
    listed, function = " ".join(words), f"_drsn_jax_files_and_{name}"
    return {
        "bash": function,
        "zsh": function,
        "fish": f"{listed} {files['fish']}",
        "tcsh": files["tcsh"],
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "{listed}" -- "$1"\n  compgen -f -- "$1"\n}}',
            "zsh": f"{function}() {{\n  compadd {listed}\n  _files\n}}",
        },
    }
