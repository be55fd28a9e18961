"""The longest sentences that a user or reader meets: `python tools/longest_sentences.py [TREE] [--number=50]`.

Reads module docstrings, the help texts of the parsers, and the messages of raised errors from the source of a checkout.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path


def texts(tree: ast.Module, *, cli: bool) -> Iterator[str]:
    """Yield the module's docstring, help texts (in the `cli` also named ones), and messages of errors; a value counts as one word."""
    yield ast.get_docstring(tree) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (_text(keyword.value) for keyword in node.keywords if keyword.arg in ("help", "description"))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from map(_text, node.exc.args[:1])
        if cli and isinstance(node, ast.Assign) and _is_text(node.value):
            yield _text(node.value)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "X"
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "X"


def sentences(text: str) -> list[str]:
    """Split at full stops before a new sentence, and at empty lines; indented lines of code are left out."""
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z`\"'\d(])|\n\s*\n", prose)
    return [" ".join(part.split()) for part in parts if part.strip()]


def main() -> None:
    """Print the longest sentences with their numbers of words, and the total."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--number", type=int, default=50)
    arguments = parser.parse_args()
    found = {}
    for file in sorted((arguments.tree / "drsn_jax").rglob("*.py")):
        for text in texts(ast.parse(file.read_text()), cli=file.parent.name == "cli"):
            found |= {sentence: file.relative_to(arguments.tree) for sentence in sentences(text)}
    longest = sorted(found, key=lambda sentence: -len(sentence.split()))[: arguments.number]
    for sentence in longest:
        print(f"{len(sentence.split()):3} {found[sentence]}: {sentence}")  # noqa: T201
    lengths = [len(sentence.split()) for sentence in longest]
    print(f"{len(lengths)} sentences, {sum(lengths)} words, {lengths[0]} the longest, {lengths[-1]} the shortest")  # noqa: T201


if __name__ == "__main__":
    main()
