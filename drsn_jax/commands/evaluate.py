"""drsn-jax evaluate."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from drsn_jax.commands.options import declare_model, declare_tile, path
from drsn_jax.errors import InputError


def declare(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    declare_model(parser)
    data = parser.add_argument_group("images")
    data.add_argument(
        "--data", metavar="NAME[:SPLIT]", help="a data set that `drsn-jax prepare` made, such as gopro:test; or give folders:"
    )
    data.add_argument(
        "--data-dir", type=path, metavar="DIR", help="where prepared data sets lie (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)"
    )
    data.add_argument("--blurred", type=path, metavar="DIR", help="blurred images")
    data.add_argument(
        "--sharp", type=path, metavar="DIR", help="sharp images of the same relative names; without, scores that need no truth"
    )
    data.add_argument("--blur-folder", choices=("blur", "blur_gamma"), help="of GoPro's layout; default: what the model was trained on")
    data.add_argument(
        "--compare", nargs="+", default=[], metavar="[NAME=]DIR", help="other methods' results on the same images, scored beside ours"
    )
    how = parser.add_argument_group("what is measured")
    how.add_argument("--protocol", help="full (the headline), half, resize256, realblur, koehler or noreference; default: by the data")
    how.add_argument("--noise-variance", type=float, default=0.0, help="Gaussian noise added to the blurred images, image scale [0, 1]")
    how.add_argument("--noise-sweep", action="store_true", help="at noise variances 0, 0.0005, 0.001, 0.005 and 0.01, with the curve")
    how.add_argument("--lpips", action="store_true", help="LPIPS as well (pip install 'drsn-jax[lpips]')")
    how.add_argument("--detector", type=path, metavar="FILE.onnx", help="a YOLOX or YOLOv8: objects found in each version of the images")
    report = parser.add_argument_group("report")
    report.add_argument(
        "--output", type=path, required=True, metavar="DIR", help="folder for the report: metrics.json, tables, HTML, panels"
    )
    report.add_argument("--panels", type=int, default=8, help="how many panels to draw, spread over the images (default 8)")
    report.add_argument("--zoom-box", metavar="TOP,LEFT,HEIGHT,WIDTH", help="what panels enlarge; default: where restoration changed most")
    report.add_argument("--overwrite", action="store_true", help="replace an evaluation that the output folder holds")
    declare_tile(parser, default=1280)  # 1280x720, the size of GoPro, whole


def run(arguments: argparse.Namespace) -> int:
    """Evaluates once, or at each noise variance of the sweep, and prints the table."""
    from drsn_jax.evaluation.benchmark import open_benchmark
    from drsn_jax.evaluation.evaluate import evaluate
    from drsn_jax.evaluation.inspection import make_inspect_fn
    from drsn_jax.evaluation.terminal import format_table
    from drsn_jax.info import describe_networks
    from drsn_jax.restoration.model import load_model
    from drsn_jax.restoration.tiling import check_tile, restore_uint8

    compared, zoom_box = _parse_compared(arguments.compare), _parse_box(arguments.zoom_box)
    if arguments.noise_sweep and arguments.noise_variance:
        raise InputError("--noise-sweep has its own variances; leave --noise-variance away.")
    model = load_model(arguments.model)
    check_tile(stride=model.stride, tile=arguments.tile, overlap=arguments.overlap)
    blur_folder = arguments.blur_folder or model.config["blur_folder"]
    places = {name: getattr(arguments, name) for name in ("data", "data_dir", "blurred", "sharp", "protocol", "lpips")}
    benchmark = open_benchmark(**places, blur_folder=blur_folder, compared=compared)
    inspect_fn, detector = make_inspect_fn(arguments.detector)
    tiles = {"stride": model.stride, "tile": arguments.tile, "overlap": arguments.overlap}
    evaluate_fn = partial(
        evaluate,
        benchmark.entries,
        restore_fn=partial(restore_uint8, predict_fn=model.predict_fn, **tiles),
        model_info=model.info | describe_networks(model.config),
        scorer=benchmark.scorer,
        protocol=benchmark.protocol,
        inspect_fn=inspect_fn,
        max_panels=arguments.panels,
        zoom_box=zoom_box,
        overwrite=arguments.overwrite,
        command=arguments.command,
        tile=arguments.tile,
        overlap=arguments.overlap,
        detector=detector,
        **benchmark.description,
    )
    if arguments.noise_sweep:
        return _sweep(evaluate_fn, output=arguments.output, command=arguments.command)
    summary = evaluate_fn(output=arguments.output, noise_variance=arguments.noise_variance)
    sys.stdout.write(f"{format_table(summary)}\nReport: {arguments.output / 'report.html'}\n")
    return 0


def _sweep(evaluate_fn: Any, *, output: Path, command: str) -> int:
    from drsn_jax.evaluation.sweep import NOISE_VARIANCES, format_sweep, sweep_noise

    summary = sweep_noise(
        lambda variance, folder: evaluate_fn(output=folder, noise_variance=variance),
        variances=NOISE_VARIANCES,
        output=output,
        command=command,
    )
    sys.stdout.write(f"{format_sweep(summary)}\nReport: {output / 'report.html'}\n")
    return 0


def _parse_compared(texts: list[str]) -> dict[str, Path]:
    """NAME=DIR, or DIR named by its last part."""
    compared: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        place = path(folder if equals else text)
        name = name if equals else place.resolve().name
        if name in (*compared, "input", "restored", "sharp", "gain", "blurred", ""):
            raise InputError(f"--compare {text}: the name {name!r} is taken; give another, as in --compare NAME={place}.")
        compared[name] = place
    return compared


def _parse_box(text: str | None) -> Any:
    if text is None:
        return "auto"
    try:
        top, left, height, width = (int(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"--zoom-box={text} is no box; write TOP,LEFT,HEIGHT,WIDTH in pixels, such as 100,200,120,160.") from None
    return top, left, height, width
