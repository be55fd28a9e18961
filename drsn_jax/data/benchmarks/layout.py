"""Recognising images by their path in a download, below any outer folder."""

import re
from collections.abc import Iterator

from drsn_jax.data.benchmarks.tree import Tree
from drsn_jax.data.images.listing import IMAGE_SUFFIXES

SUFFIX = "(?i:" + "|".join(map(re.escape, IMAGE_SUFFIXES)) + ")"


def find(tree: Tree, pattern: str) -> Iterator[tuple[str, re.Match[str]]]:
    """(name, match) of every image whose path ends in `pattern`, from the start of a folder's or file's name; no suffix in there."""
    expression = re.compile(rf"(?:^|.*/){pattern}{SUFFIX}$")
    for name in tree.files:
        if match := expression.match(name):
            yield name, match
