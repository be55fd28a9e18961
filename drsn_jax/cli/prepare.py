"""drsn-jax prepare DATASET: downloaded benchmarks, or pairs, videos and photographs of the user, stored as a data set."""

import argparse
import re
from functools import partial
from typing import Any

from drsn_jax.cli.options import path
from drsn_jax.cli.prepare_pairs import declare_photos, declare_video
from drsn_jax.system.errors import InputError

_SOURCE = "the downloaded .zip file, or a folder with the archives or their content"
_DATA_DIR = "folder of prepared data sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)"
_HELP = {
    "gopro": "GoPro, GOPRO_Large: 2,103 + 1,111 pairs",
    "hide": "HIDE: 6,397 + 2,025 pairs",
    "realblur": "RealBlur: 3,758 + 980 pairs",
    "koehler": "Köhler's benchmark: 48 images and the sharp frames along their trajectories",
    "lai": "Lai's benchmark: 100 photographs, or 100 pairs",
    "reds": "REDS, motion blur: 24,000 + 3,000 pairs",
    "pairs": "your own pairs: blur + sharp, input + target, A + B, or GoPro's scenes; with or without train, val and test above",
}


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare a subparser for each data set, which sets `prepare_fn`."""
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="DATASET")
    gopro = _declare(datasets, "gopro", choice="blur")
    gopro.add_argument("--blur", choices=("linear", "gamma"), default="linear", help="folder blur (linear, the default) or blur_gamma")
    validation = "name prefixes of the training scenes to validate on (default GOPR0374_, one recording; '' for none)"
    gopro.add_argument("--validation-scenes", metavar="PREFIX,...", help=validation)
    _declare(datasets, "hide")
    realblur = _declare(datasets, "realblur", choice="variant")
    realblur.add_argument("--variant", choices=("r", "j"), required=True, help="r: from raw images; j: the camera's JPEG")
    _declare(datasets, "koehler")
    lai = _declare(datasets, "lai", choice="part")
    lai.add_argument("--part", choices=("real", "uniform", "nonuniform"), required=True)
    _declare(datasets, "reds")
    own = _declare(datasets, "pairs", choice="name")
    own.add_argument("--name", required=True, help="name of the set, which becomes deblurring_pairs/NAME")
    declare_video(datasets)
    declare_photos(datasets)


def run(arguments: argparse.Namespace) -> int:
    """Run the function of the data set's subparser."""
    return arguments.prepare_fn(arguments)


def _declare(datasets: Any, name: str, *, choice: str | None = None) -> argparse.ArgumentParser:
    """Declare a subparser; `choice` is the option that selects the configuration of the data set."""
    parser = datasets.add_parser(name, help=_HELP[name], description=_HELP[name], allow_abbrev=False)
    parser.add_argument("--source", type=path, required=True, metavar="PATH", help=_SOURCE)
    parser.add_argument("--data-dir", type=path, metavar="DIR", help=_DATA_DIR)
    parser.add_argument("--allow-incomplete", action="store_true", help="store the set even if parts are missing or damaged")
    parser.add_argument("--check", action="store_true", help="print the table of found and missing parts, and stop")
    parser.add_argument("--overwrite", action="store_true", help="replace a stored set, once the new one is complete")
    parser.set_defaults(prepare_fn=partial(_prepare, dataset=name, choice=choice))
    return parser


def _prepare(arguments: argparse.Namespace, *, dataset: str, choice: str | None) -> int:
    from drsn_jax.data.benchmarks import FOLDERS
    from drsn_jax.data.prepared.prepare import prepare_dataset

    options: dict[str, Any] = {}
    if getattr(arguments, "validation_scenes", None) is not None:
        options["validation_scenes"] = tuple(prefix for prefix in arguments.validation_scenes.split(",") if prefix)
    variant = getattr(arguments, choice) if choice else ""
    if dataset == "pairs" and not re.fullmatch(r"[A-Za-z][\w-]*", variant):
        raise InputError(f"--name={variant} cannot name a data set; use letters, digits, - and _, beginning with a letter")
    prepare_dataset(
        FOLDERS if dataset == "pairs" else dataset,
        source=arguments.source,
        variant=variant,
        data_dir=arguments.data_dir,
        allow_incomplete=arguments.allow_incomplete,
        check_only=arguments.check,
        overwrite=arguments.overwrite,
        **options,
    )
    return 0
