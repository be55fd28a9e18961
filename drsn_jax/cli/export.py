"""drsn-jax export."""

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from drsn_jax.cli.options import declare_dtype, declare_model, path, place
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import check_bucket, is_bucket, size_of, upload

FORMATS = ("stablehlo", "savedmodel", "tflite", "onnx", "compact")
FIXED = ("tflite", "onnx")  # fixed image size


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    declare_model(parser)
    declare_dtype(parser)
    parser.add_argument("--output", type=place, required=True, metavar="FILE", help="file to write; a folder for savedmodel and compact")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="stablehlo",
        help="stablehlo (default): any image size, for restore --model=FILE. TensorFlow's savedmodel: any size. For one size: tflite, onnx"
        " (for restore --model=FILE.onnx). A compact model: a folder of float16 weights, for use as --model",
    )
    formats = parser.add_argument_group("options of single formats")
    formats.add_argument("--platforms", metavar="NAME,...", help="stablehlo, savedmodel: of cpu, cuda, rocm, tpu (default cpu,cuda,tpu)")
    formats.add_argument("--size", metavar="HEIGHTxWIDTH", help="tflite, onnx: image size in pixels (default 256x256)")
    formats.add_argument("--training", action="store_true", help="compact: include the critic, so that a training can begin with init_from")
    parser.add_argument("--image", type=path, metavar="PHOTO", help="photograph to compare model and export on")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    """Write the export after comparing it with the model, and print the difference."""
    from drsn_jax.interop.export import check_platforms
    from drsn_jax.weights.model import read_generator

    output, fixed = arguments.output, arguments.format in FIXED
    if arguments.format == "compact":
        return _write_compact(arguments)
    if arguments.training:
        raise InputError("--training applies only to --format=compact; omit it.")
    if arguments.platforms and fixed:
        raise InputError(f"--platforms does not apply to {arguments.format}; omit it.")
    if arguments.size and not fixed:
        raise InputError(f"--size applies to {' and '.join(FIXED)} only; a {arguments.format} takes any size. Omit it.")
    if arguments.format == "onnx" and arguments.dtype == "bfloat16":
        raise InputError("--dtype=bfloat16 does not apply to onnx: onnxruntime has no such convolution on CPUs; omit it.")
    if arguments.format == "onnx" and output.suffix != ".onnx":
        raise InputError(f"--output={output} must end in .onnx, so that restore recognises the file.")
    platforms = tuple((arguments.platforms or "cpu,cuda,tpu").split(","))
    check_platforms(platforms)
    size = _parse_size(arguments.size or "256x256") if fixed else None
    check_bucket(output, write=True)
    if output.exists() and (not arguments.overwrite or output.is_dir()):
        raise InputError(f"{output} already exists; choose another --output" + (", or --overwrite." if output.is_file() else "."))
    if arguments.model.is_file():
        raise InputError(f"{arguments.model} is a file; give the workdir or the checkpoint of a training to export.")
    stored = read_generator(arguments.model, dtype=arguments.dtype or "float32")
    images = _comparison_images(arguments.image, stride=stored.generator.stride, size=size)
    differences = _write(arguments.format, output, stored, platforms=platforms, size=size, images=images)
    sys.stdout.write(_describe(arguments.format, output, stored, differences, platforms=platforms, size=size))
    return 0


def _write(kind: str, output: Any, stored: Any, *, platforms: Any, size: Any, images: dict) -> dict[str, float]:
    from drsn_jax.interop.export import export_stablehlo, load_exported_fn, measure_parity
    from drsn_jax.system.files import write_atomically
    from drsn_jax.weights.exported import import_export

    network: dict[str, Any] = {"generator": stored.generator, "variables": stored.variables}
    differences: dict[str, float] = {}

    def check(exported_fn: Any) -> None:
        differences.update(measure_parity(exported_fn, **network, images=images))

    if kind == "savedmodel":
        from drsn_jax.interop.tensorflow_export import write_saved_model

        with tempfile.TemporaryDirectory() as temporary:  # checked before it is moved to its place
            folder = Path(temporary) / "model" if is_bucket(output) else output
            write_saved_model(folder, **network, platforms=platforms, check_fn=check)
            if is_bucket(output):
                upload(folder, output)
    elif kind == "tflite":
        from drsn_jax.interop.tensorflow_export import convert_tflite

        content, exported_fn = convert_tflite(**network, size=size)
        check(exported_fn)
        write_atomically(output, content)
    elif kind == "onnx":
        from drsn_jax.interop.onnx_export import convert_onnx

        content, exported_fn = convert_onnx(**network, size=size, config=stored.config, info=stored.info)
        check(exported_fn)
        write_atomically(output, content)
    else:
        content = export_stablehlo(**network, platforms=platforms, config=stored.config, info=stored.info)
        if import_export().default_export_platform() in platforms:
            check(load_exported_fn(content))
        write_atomically(output, content)
    return differences


def _write_compact(arguments: argparse.Namespace) -> int:
    from drsn_jax.weights.saved import compact_model

    given = [name for name in ("platforms", "size", "image", "overwrite", "dtype") if getattr(arguments, name)]
    if given:
        raise InputError(f"--{given[0]} does not apply to compact; omit it.")
    sys.stdout.write(compact_model(arguments.model, arguments.output, training=arguments.training))
    return 0


def _comparison_images(photo: Any, *, stride: int, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return noise and, if available, a photograph: the user's, else one of scikit-image."""
    from drsn_jax.data.images.reader import read_photo
    from drsn_jax.data.synthesis.photos import DEMO_HELD_OUT, read_demo_photos
    from drsn_jax.interop.export import SMALLEST, fit_photo, random_images

    images = {"noise": random_images((1, *(size or (SMALLEST * stride, (SMALLEST + 1) * stride))))}
    if photo is not None:
        name, rgb = photo.name, read_photo(photo).rgb
    else:
        try:
            [(name, pixels)] = read_demo_photos(DEMO_HELD_OUT[:1]).items()
        except InputError:  # scikit-image is not installed
            return images
        rgb = pixels / 255
    fitted = fit_photo(rgb, stride=stride, size=size)
    if fitted is None and photo is not None:
        raise InputError(f"{photo} is too small for the comparison; give another --image.")
    return images if fitted is None else images | {name: fitted}


def _describe(kind: str, output: Any, stored: Any, differences: dict[str, float], *, platforms: Any, size: Any) -> str:
    from drsn_jax.interop.export import SMALLEST

    stride, step = stored.generator.stride, stored.info["step"]
    sizes = f"images of {size[0]}x{size[1]}" if size else f"sizes in multiples of {stride} from {SMALLEST * stride} up"
    where = "" if kind in FIXED else f" for {', '.join(platforms)}"
    megabytes = size_of(output) / 1e6
    measured = ", ".join(f"{difference:.2g} on {name}" for name, difference in differences.items())
    parity = (
        f"Parity with the model, largest difference in [-1, 1]: {measured}"
        if measured
        else "Parity: not checked, because the export does not include this platform"
    )
    lines = [f"{output}: {kind}{where}, {megabytes:.3g} MB, {sizes}; step {step}, {stored.info['parameters']:,} parameters", parity]
    if kind in ("stablehlo", "onnx"):
        lines.append(f"Run it: drsn-jax restore --model={output} --output=DIR PHOTO ...")
    return "\n".join([*lines, ""])


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise InputError(f"--size={text} is not a size; write HEIGHTxWIDTH in pixels, such as 256x256.")
    return int(match[1]), int(match[2])
