"""drsn-jax evaluate."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from drsn_jax.cli.options import (
    declare_dtype,
    declare_json,
    declare_model,
    declare_quiet,
    declare_tile,
    no_progress,
    path,
    place,
    print_json,
)
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath, local_path


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    declare_model(parser)
    declare_dtype(parser)
    data = parser.add_argument_group("images")
    data.add_argument(
        "--data", metavar="NAME[:SPLIT]", help="a data set made by `drsn-jax prepare`, such as gopro:test; alternatively give folders"
    )
    folder = "folder of prepared data sets (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)"
    data.add_argument("--data-dir", type=path, metavar="DIR", help=folder)
    data.add_argument("--blurred", type=path, metavar="DIR", help="folder of blurred images")
    data.add_argument(
        "--sharp", type=path, metavar="DIR", help="folder of sharp images with the same relative names, or Köhler's ground truth"
    )
    blur_folder = "blurred folder in GoPro's layout (default: as in the model's training)"
    data.add_argument("--blur-folder", choices=("blur", "blur_gamma"), help=blur_folder)
    how = parser.add_argument_group("measurements")
    protocols = "full (the headline), half, resize256, realblur, koehler or noreference (default: by the data)"
    how.add_argument("--protocol", metavar="NAME", help=protocols)
    variance = "variance of Gaussian noise added to the blurred images, image scale [0, 1] (default 0)"
    how.add_argument("--noise-variance", type=float, default=0.0, metavar="V", help=variance)
    how.add_argument(
        "--noise-sweep", action="store_true", help="score at noise variances 0, 0.0005, 0.001, 0.005 and 0.01, and plot the curve"
    )
    aligned = "also PSNR after the best shift of up to 3 whole pixels, for shifted ground truth as in GoPro"
    how.add_argument("--aligned", action="store_true", help=aligned)
    how.add_argument("--lpips", action="store_true", help="also compute LPIPS (pip install 'drsn-jax[lpips]')")
    how.add_argument("--detector", type=path, metavar="FILE.onnx", help="also count the objects found by this YOLOX or YOLOv8")
    others = parser.add_argument_group("other methods")
    compared = "folders with results of other methods on the same inputs, for the same report. With noise they lie in DIR/noise_VARIANCE"
    others.add_argument("--compare", nargs="+", default=[], metavar="[NAME=]DIR", help=compared)
    written = "write the inputs (protocol's size, noise) into this folder, for other methods to restore"
    others.add_argument("--write-inputs", type=path, metavar="DIR", help=written)
    _declare_report(parser.add_argument_group("report"))
    declare_tile(parser.add_argument_group("tiles"), default=1280)  # 1280x720, the size of GoPro, whole


def _declare_report(report: Any) -> None:
    output = "folder for the report: metrics.json, tables, HTML, panels"
    report.add_argument("--output", type=place, required=True, metavar="DIR", help=output)
    report.add_argument("--panels", type=int, default=8, metavar="N", help="number of panels, spread over the images (default 8)")
    zoom = "detail to enlarge in the panels (default: the place of the largest change)"
    report.add_argument("--zoom-box", metavar="TOP,LEFT,HEIGHT,WIDTH", help=zoom)
    report.add_argument("--overwrite", action="store_true", help="replace an existing evaluation")
    declare_quiet(report, shown="the table")
    declare_json(report, printed="metrics.json without its images")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate once, or at each noise variance of the sweep, and print the table."""
    if arguments.noise_sweep and arguments.noise_variance:
        raise InputError("--noise-sweep has its own variances; omit --noise-variance.")
    evaluate_fn = _prepare(arguments)
    from drsn_jax.evaluation.report.formats import format_table
    from drsn_jax.evaluation.sweep import NOISE_VARIANCES, format_sweep, sweep_noise
    from drsn_jax.system.programs import keep_programs

    options = {"output": arguments.output, "overwrite": arguments.overwrite, "command": arguments.command}
    with keep_programs(), no_progress(arguments.quiet):
        if arguments.noise_sweep:
            summary = sweep_noise(evaluate_fn, variances=NOISE_VARIANCES, **options)
        else:
            summary = evaluate_fn(arguments.noise_variance, arguments.output)
    if arguments.json:
        print_json({key: value for key, value in summary.items() if key != "per_image"})
        return 0
    text = format_sweep(summary) if arguments.noise_sweep else format_table(summary)
    sys.stdout.write(f"{text}\nReport: {arguments.output / 'report.html'}\n")
    return 0


def _prepare(arguments: argparse.Namespace) -> Any:
    """Check the arguments, and return a function (variance, folder) -> summary of an evaluation."""
    from functools import partial

    from drsn_jax.evaluation.baselines import add_baselines, write_inputs
    from drsn_jax.evaluation.detection.inspection import make_inspect_fn
    from drsn_jax.evaluation.evaluate import evaluate
    from drsn_jax.planning.description import describe_networks
    from drsn_jax.restoration.core.tiling import check_tile, restore_uint8
    from drsn_jax.weights.model import load_model

    compared, zoom_box = _parse_compared(arguments.compare), _parse_box(arguments.zoom_box)
    model = load_model(arguments.model, dtype=arguments.dtype)
    tiles = {"tile": model.fit_tile(arguments.tile), "overlap": arguments.overlap}
    check_tile(stride=model.stride, **tiles)
    benchmark = _open_benchmark(arguments, trained_on=model.config["blur_folder"])
    inspect_fn, detector = make_inspect_fn(arguments.detector)
    predict_fn, together = _spread(model)
    restore_fn = partial(restore_uint8, predict_fn=predict_fn, stride=model.stride, **tiles)
    options = {"overwrite": arguments.overwrite, "command": arguments.command, "notes": benchmark.notes, "zoom_box": zoom_box}
    options |= {"scorer": benchmark.scorer, "inspect_fn": inspect_fn, "max_panels": arguments.panels}
    options |= {
        "model_info": model.info | describe_networks(model.config),
        "detector": detector,
        "dtype": model.info["dtype"],
        **tiles,
        **benchmark.description,
    }

    def evaluate_fn(variance: float, output: AnyPath) -> dict[str, Any]:
        inputs = {"protocol": benchmark.protocol, "noise_variance": variance}
        if arguments.write_inputs:
            write_inputs(benchmark.entries, folder=arguments.write_inputs, **inputs)
        entries = add_baselines(benchmark.entries, compared, **inputs)
        return evaluate(entries, restore_fn=restore_fn, together=together, output=output, **inputs, **options)

    return evaluate_fn


def _spread(model: Any) -> tuple[Any, int]:
    """Put the model on every device of this machine, each with its own images. Returns it and their number; exported files use one."""
    from functools import partial

    import jax

    from drsn_jax.restoration.core.spread import make_parallel

    devices = jax.local_devices()
    if model.apply_fn is None or len(devices) == 1:
        return model.predict_fn, 1
    parallel = make_parallel(model.apply_fn, devices=devices)
    return partial(parallel.apply_fn, parallel.place_fn(model.variables)), parallel.devices


def _open_benchmark(arguments: argparse.Namespace, *, trained_on: str) -> Any:
    from drsn_jax.evaluation.benchmark import open_folder_benchmark, open_prepared_benchmark

    how = {"protocol": arguments.protocol, "lpips": arguments.lpips, "aligned": arguments.aligned}
    if (arguments.data is None) == (arguments.blurred is None):
        raise InputError(
            "Give the images to evaluate on, either --data=NAME:SPLIT (see `drsn-jax prepare`) or --blurred=DIR with --sharp=DIR."
        )
    idle = ("sharp", "blur_folder") if arguments.data else ("data_dir",)
    if useless := [f"--{name.replace('_', '-')}" for name in idle if getattr(arguments, name)]:
        raise InputError(f"{useless[0]} has no effect with --{'data' if arguments.data else 'blurred'}; omit it.")
    if arguments.data:
        return open_prepared_benchmark(arguments.data, data_dir=arguments.data_dir, trained_on=trained_on, **how)
    return open_folder_benchmark(arguments.blurred, arguments.sharp, blur_folder=arguments.blur_folder or trained_on, **how)


def _parse_compared(texts: list[str]) -> dict[str, Path]:
    """Parse NAME=DIR, or DIR with its last part as the name."""
    compared: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        named = equals and not Path(text).expanduser().exists()  # a path may contain =
        there = local_path(folder if named else text)
        name = name if named else os.path.basename(os.path.realpath(there))
        if name in (*compared, "input", "restored", "sharp", "gain", "blurred", ""):
            raise InputError(f"--compare {text}: the name {name!r} is taken; give another, as in --compare NAME={there}.")
        compared[name] = there
    return compared


def _parse_box(text: str | None) -> Any:
    if text is None:
        return "auto"
    try:
        top, left, height, width = (int(number) for number in text.split(","))
    except ValueError:
        raise InputError(f"--zoom-box={text} is not a box; write TOP,LEFT,HEIGHT,WIDTH in pixels, such as 100,200,120,160.") from None
    return top, left, height, width
