"""Recognition of images by their path in a download, below any outer folders."""

import re
from collections.abc import Iterator

from drsn_jax.data.benchmarks.tree import Tree
from drsn_jax.data.images.listing import IMAGE_SUFFIXES

SUFFIX = "(?i:" + "|".join(map(re.escape, IMAGE_SUFFIXES)) + ")"


def find(tree: Tree, pattern: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Return (name, match) for every image with a path, without suffix, that ends in `pattern` at the start of a component."""
    expression = re.compile(rf"(?:^|.*/){pattern}{SUFFIX}$")
    for name in tree.files:
        if match := expression.match(name):
            yield name, match
