"""The deblurring benchmarks: the layout of each download, and the expected number of images."""

import os
from collections.abc import Sequence
from typing import Any

from drsn_jax.data.benchmarks import folders, gopro, hide, koehler, lai, realblur, reds
from drsn_jax.data.benchmarks.survey import Survey
from drsn_jax.data.benchmarks.tree import open_tree

FOLDERS = "deblurring_pairs"  # the user's own pairs
_MODULES = {"gopro": gopro, "hide": hide, "realblur": realblur, "koehler": koehler, "lai": lai, "reds": reds, FOLDERS: folders}
# The configurations of each set. Those of FOLDERS are the names of the users' sets.
CONFIGS: dict[str, Sequence[str]] = {
    "gopro": ("linear", "gamma"),
    "hide": (),
    "realblur": ("r", "j"),
    "koehler": (),
    "lai": ("real", "uniform", "nonuniform"),
    "reds": (),
    FOLDERS: (),
}
MADE = ("averaged_video", "blurred_photos")  # made by `prepare video` and `prepare photos` with Beam: pairs without a survey


def survey_source(dataset: str, source: str | os.PathLike[str], *, variant: str = "", **options: Any) -> Survey:
    """Survey the folder or .zip file `source` for a data set; `options` are those of its module (such as GoPro's validation_scenes).

    The headers of all images are read, none is decoded. Raises `InputError` as `open_tree` does.
    """
    module = _MODULES[dataset]
    return module.survey(open_tree(source, archives=module.ARCHIVES), variant=variant, **options)
