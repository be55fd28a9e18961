"""What each verb of the command line declares and does.

A verb is a function of its parsed arguments and lives in `VERBS`, with the function that declares them. What it needs is imported inside
it: `restore` must not wait for what only training uses.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Verb(NamedTuple):
    """One verb: its line in the help, what declares its arguments, what runs it (returning an exit code)."""

    help: str
    declare: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _path(text: str) -> Path:
    return Path(text).expanduser()  # the shell leaves the ~ of --workdir=~/runs as it is


def _declare_config(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    parser.add_argument(
        "--config", default=default, required=default is None, help="a configuration by name (see `drsn-jax info`), or FILE.py"
    )
    parser.epilog = "Any key of the configuration is changed by --config.KEY=VALUE; `drsn-jax info --config=NAME` lists them."


def _declare_model(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    text = "a --workdir of a training (its best checkpoint by validation PSNR, else its newest), or one checkpoint"
    parser.add_argument("--model", type=_path, required=required, metavar="WORKDIR_OR_CHECKPOINT", help=text)


def _declare_tile(parser: argparse.ArgumentParser, *, default: int) -> None:
    parser.add_argument(
        "--tile", type=int, default=default, help=f"larger images are restored in tiles of so many pixels (default {default})"
    )
    parser.add_argument("--overlap", type=int, default=64, help="pixels by which tiles overlap (default 64)")


def _declare_train(parser: argparse.ArgumentParser) -> None:
    _declare_config(parser, default=None)
    parser.add_argument("--workdir", type=_path, required=True, help="folder of the run: it resumes from there by itself")


def _train(arguments: argparse.Namespace) -> int:
    # Before TensorFlow is imported, if it is: it greets on stderr otherwise. Images are decoded no slower without oneDNN.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from drsn_jax.config import load_config
    from drsn_jax.training.train import train_and_evaluate

    train_and_evaluate(load_config(arguments.config, arguments.overrides), arguments.workdir)
    return 0


def _declare_evaluate(parser: argparse.ArgumentParser) -> None:
    _declare_model(parser)
    parser.add_argument("--blurred", type=_path, required=True, metavar="DIR", help="blurred images")
    parser.add_argument("--sharp", type=_path, required=True, metavar="DIR", help="sharp images of the same relative names")
    parser.add_argument(
        "--output", type=_path, required=True, metavar="DIR", help="folder for metrics.json, per_image.csv, report.md and panels"
    )
    parser.add_argument("--blur-folder", choices=("blur", "blur_gamma"), help="of GoPro's layout; default: what the model was trained on")
    parser.add_argument("--protocol", default="full", help="full (the headline), half or resize256")
    parser.add_argument("--noise-variance", type=float, default=0.0, help="Gaussian noise added to the blurred images, image scale [0, 1]")
    parser.add_argument("--panels", type=int, default=8, help="how many panels to draw, spread over the images (default 8)")
    parser.add_argument("--overwrite", action="store_true", help="replace an evaluation that the output folder holds")
    _declare_tile(parser, default=1280)  # 1280x720, the size of GoPro, whole


def _evaluate(arguments: argparse.Namespace) -> int:
    from functools import partial

    from drsn_jax.data.pairs import match_folders
    from drsn_jax.evaluation.evaluate import evaluate, format_table
    from drsn_jax.restoration.model import load_model
    from drsn_jax.restoration.tiling import check_tile, restore_uint8

    model = load_model(arguments.model)
    blur_folder = arguments.blur_folder or model.config["blur_folder"]
    pairs = match_folders(arguments.blurred, arguments.sharp, blur_folder=blur_folder)
    check_tile(stride=model.stride, tile=arguments.tile, overlap=arguments.overlap)
    tiles = {"stride": model.stride, "tile": arguments.tile, "overlap": arguments.overlap}
    summary = evaluate(
        restore_fn=partial(restore_uint8, predict_fn=model.predict_fn, **tiles),
        model_info=model.info,
        pairs=pairs,
        output=arguments.output,
        protocol=arguments.protocol,
        noise_variance=arguments.noise_variance,
        max_panels=arguments.panels,
        overwrite=arguments.overwrite,
        command=arguments.command,
        tile=arguments.tile,
        overlap=arguments.overlap,
        blurred=str(arguments.blurred),
        sharp=str(arguments.sharp),
        blur_folder=blur_folder,
    )
    sys.stdout.write(f"{format_table(summary)}\nReport: {arguments.output / 'report.md'}\n")
    return 0


def _declare_restore(parser: argparse.ArgumentParser) -> None:
    _declare_model(parser)
    parser.add_argument("inputs", nargs="+", type=_path, metavar="INPUT", help="photographs, and folders of photographs")
    parser.add_argument("--output", type=_path, required=True, metavar="DIR", help="folder for the results, named as the inputs")
    parser.add_argument("--output-format", metavar="TYPE", help="write this type of file (png, jpg, ...) instead of the input's")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    _declare_tile(parser, default=768)


def _restore(arguments: argparse.Namespace) -> int:
    from drsn_jax.restoration.model import load_model
    from drsn_jax.restoration.restore import restore_files

    model = load_model(arguments.model)
    report = restore_files(
        arguments.inputs,
        output=arguments.output,
        predict_fn=model.predict_fn,
        stride=model.stride,
        tile=arguments.tile,
        overlap=arguments.overlap,
        overwrite=arguments.overwrite,
        output_format=arguments.output_format,
    )
    return 2 if report.failed else 0


def _declare_info(parser: argparse.ArgumentParser) -> None:
    _declare_config(parser, default="default")
    _declare_model(parser, required=False)


def _info(arguments: argparse.Namespace) -> int:
    from drsn_jax.info import describe

    sys.stdout.write(describe(config=arguments.config, overrides=arguments.overrides, model=arguments.model))
    return 0


VERBS = {
    "train": Verb("train a generator and its critic, or go on with it", _declare_train, _train),
    "evaluate": Verb("score a model on pairs of blurred and sharp images", _declare_evaluate, _evaluate),
    "restore": Verb("restore photographs", _declare_restore, _restore),
    "info": Verb("versions, devices, a configuration's keys and its networks' parameters", _declare_info, _info),
}
