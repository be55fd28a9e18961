"""Checks a tag against pyproject.toml and CHANGELOG.md, and prints the notes of that release: `python -m tools.release v1.0.0`."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def read_version(root: Path = ROOT) -> str:
    """The version in pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]


def read_notes(version: str, root: Path = ROOT) -> str:
    """What CHANGELOG.md says of a version. Raises ValueError where it says nothing."""
    found = re.search(rf"^## {re.escape(version)} .*?\n(.*?)(?=^## |\Z)", (root / "CHANGELOG.md").read_text(), re.DOTALL | re.MULTILINE)
    if not found or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no notes of {version}: write them below a heading `## {version} (DATE)`.")
    return found[1].strip()


def check_release(tag: str, root: Path = ROOT) -> str:
    """The notes of the release with this tag. Raises ValueError where the tag is not `v` and the version, or there are no notes."""
    version = read_version(root)
    if tag != f"v{version}":
        raise ValueError(f"The tag is {tag}, and pyproject.toml has version {version}: tag the commit v{version}, or change the version.")
    return read_notes(version, root)


def main(arguments: list[str]) -> int:
    """Runs the command line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tools.release TAG\n")
        return 2
    try:
        sys.stdout.write(check_release(arguments[0]) + "\n")
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
