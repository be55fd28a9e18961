"""The check of a tag against pyproject.toml, CHANGELOG.md and README.md, and the notes of its release: `python -m tools.release v1.0.0`.

The tag must be `v` and the version. The notes must have a date. The README must no longer state that there is no release.
"""

import re
import sys
import tomllib
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEFORE_THE_FIRST = "is not on PyPI yet"  # the words of README.md before the first release


def read_version(root: Path = ROOT) -> str:
    """Read the version in pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]


def read_notes(version: str, root: Path = ROOT) -> str:
    """Read the notes of a version in CHANGELOG.md. Raises ValueError if there are none."""
    found = re.search(rf"^## {re.escape(version)} .*?\n(.*?)(?=^## |\Z)", (root / "CHANGELOG.md").read_text(), re.DOTALL | re.MULTILINE)
    if not found or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no notes of {version}: write them below a heading `## {version} (DATE)`.")
    return found[1].strip()


def check_date(version: str, root: Path = ROOT) -> None:
    """Raise ValueError if the heading of a version's notes has no date."""
    [heading] = re.findall(rf"^## {re.escape(version)} .*$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    if not re.fullmatch(r"## \S+ \(\d{4}-\d\d-\d\d\)", heading):
        raise ValueError(f"CHANGELOG.md has {heading!r}: write the day of the release in it, as `## {version} ({date.today()})`.")


def check_release(tag: str, root: Path = ROOT) -> str:
    """Return the notes of the release with this tag.

    Raises ValueError if the tag is not `v` and the version, or if the files are not ready.
    """
    version = read_version(root)
    if tag != f"v{version}":
        raise ValueError(f"The tag is {tag}, and pyproject.toml has version {version}: tag the commit v{version}, or change the version.")
    notes = read_notes(version, root)
    check_date(version, root)
    if BEFORE_THE_FIRST in (root / "README.md").read_text():
        raise ValueError(
            f"README.md says that the package {BEFORE_THE_FIRST}: with this release it is; make `pip install drsn-jax` its first command."
        )
    return notes


def main(arguments: list[str]) -> int:
    """Run the command line."""
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
