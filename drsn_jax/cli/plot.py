"""drsn-jax plot."""

import argparse
import sys
from pathlib import Path

from drsn_jax.cli.options import path
from drsn_jax.system.errors import InputError
from drsn_jax.weights.shipped import find_model

FORMATS = ("png", "svg", "pdf")


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    model = "the --workdir of a training; with --image any model"
    parser.add_argument("model", type=find_model, metavar="WORKDIR", help=model)
    image = "draw the thresholds as heat maps over this photograph, instead of the curves of the training"
    parser.add_argument("--image", type=path, metavar="PHOTO", help=image)
    output = f"file to write; its suffix is one of {', '.join(FORMATS)} (default: WORKDIR/curves.png, or PHOTO.thresholds.png)"
    parser.add_argument("--output", type=path, metavar="FILE", help=output)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file; curves.png in a workdir is always replaced")


def run(arguments: argparse.Namespace) -> int:
    """Draw one picture and print its path."""
    from drsn_jax.system.files import write_atomically

    output = _choose_output(arguments)
    draw = _draw_curves if arguments.image is None else _draw_thresholds
    write_atomically(output, draw(arguments, output.suffix[1:].lower()))
    sys.stdout.write(f"{output}\n")
    return 0


def _choose_output(arguments: argparse.Namespace) -> Path:
    workdir, photo = arguments.model, arguments.image
    output = arguments.output or (workdir / "curves.png" if photo is None else photo.with_name(f"{photo.stem}.thresholds.png"))
    if output.suffix[1:].lower() not in FORMATS:
        raise InputError(f"--output={output}: pictures are written as {', '.join(FORMATS)}; give a name such as {output.stem}.png.")
    own = arguments.output is None and photo is None
    if output.is_dir() or (output.exists() and not (arguments.overwrite or own)):
        raise InputError(f"{output} already exists; choose another --output" + ("." if output.is_dir() else ", or --overwrite."))
    return output


def _draw_curves(arguments: argparse.Namespace, file_format: str) -> bytes:
    from drsn_jax.evaluation.curves import draw_training, read_records
    from drsn_jax.run.writer import METRICS_FILE

    return draw_training(read_records(arguments.model / METRICS_FILE), title=str(arguments.model), file_format=file_format)


def _draw_thresholds(arguments: argparse.Namespace, file_format: str) -> bytes:
    import numpy as np

    from drsn_jax.data.images.reader import read_photo
    from drsn_jax.evaluation.thresholds import crop_middle, draw_maps, map_thresholds
    from drsn_jax.weights.model import read_generator

    if arguments.model.is_file():
        raise InputError(f"{arguments.model} is an exported program without access to its thresholds; give a workdir or a model's name.")
    image = crop_middle(np.rint(np.asarray(read_photo(arguments.image).rgb) * 255).astype(np.uint8))
    stored = read_generator(arguments.model)
    shares = map_thresholds(stored.generator, stored.variables, image)
    title = f"{arguments.model.name}, {arguments.image.name}: share of features that the thresholds set to zero"
    return draw_maps(image, shares, title=title, file_format=file_format)
