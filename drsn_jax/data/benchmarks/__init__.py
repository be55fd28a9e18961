"""The deblurring benchmarks: how to find one's images in a download, and how many there should be."""

import os
from collections.abc import Sequence
from typing import Any

from drsn_jax.data.benchmarks import folders, gopro, hide, koehler, lai, realblur, reds
from drsn_jax.data.benchmarks.survey import Survey
from drsn_jax.data.benchmarks.tree import open_tree

FOLDERS = "deblurring_pairs"  # anyone's own
_MODULES = {"gopro": gopro, "hide": hide, "realblur": realblur, "koehler": koehler, "lai": lai, "reds": reds, FOLDERS: folders}
# The configurations of each; those of FOLDERS are what people call their sets.
CONFIGS: dict[str, Sequence[str]] = {
    "gopro": ("linear", "gamma"),
    "hide": (),
    "realblur": ("r", "j"),
    "koehler": (),
    "lai": ("real", "uniform", "nonuniform"),
    "reds": (),
    FOLDERS: (),
}
MADE = ("averaged_video", "blurred_photos")  # what `prepare video` and `prepare photos` make by Beam: pairs without a survey


def survey_source(dataset: str, source: str | os.PathLike[str], *, variant: str = "", **options: Any) -> Survey:
    """What the folder or .zip file `source` holds of a data set; `options` as its module has them (GoPro's validation_scenes).

    Headers of all images are read, none is decoded. Raises `InputError` as `open_tree` does.
    """
    module = _MODULES[dataset]
    return module.survey(open_tree(source, archives=module.ARCHIVES), variant=variant, **options)
