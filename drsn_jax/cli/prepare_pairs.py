"""drsn-jax prepare video, drsn-jax prepare photos: pairs made from the user's videos and photographs."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from drsn_jax.cli.options import path
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import PACKAGES, local_path, scheme_of


class _Making(NamedTuple):
    """The common form of both kinds of pairs: the name of their data set, and the arguments of `make_pairs` and Beam."""

    builder: str
    settings: dict[str, Any]
    plan_fn: Callable[[Any], Sequence[dict[str, Any]]]
    examples_fn: Callable[[Sequence[dict[str, Any]]], Any]
    block: int  # pairs that one worker of Beam makes at a time
    extend: bool  # whether sources may be added between two runs


def declare_video(subparsers: Any) -> None:
    """Declare `prepare video`."""
    text = "make pairs from videos by GoPro's method: the mean light of consecutive frames, and the frame at their centre"
    parser = subparsers.add_parser("video", help=text, description=text, allow_abbrev=False)
    source = "video files, and folders of numbered frames"
    parser.add_argument("--source", type=path, nargs="+", action="extend", required=True, metavar="FILE_OR_FOLDER", help=source)
    parser.add_argument("--frames", default="7-13", metavar="LOW-HIGH", help="frames to average, drawn for each pair (default 7-13)")
    parser.add_argument("--stride", default="auto", metavar="N", help="frames between the starts of windows (default auto: no overlap)")
    parser.add_argument("--gamma", type=float, metavar="G", help="the camera's response: light = value^G (default 2.2; 1 is linear)")
    parser.add_argument("--response", type=path, metavar="FILE", help="the camera's response: the light of values 0 to 255, .csv or .npy")
    parser.add_argument("--min-motion", type=float, default=2.0, metavar="PIXELS", help="skip windows with less motion (default 2)")
    cut = "difference between two frames that counts as a cut, as a multiple of the usual one (default 3)"
    parser.add_argument("--cut-threshold", type=float, default=3.0, metavar="TIMES", help=cut)
    exclude = "frames to skip in every source, counted from 1, both ends included, such as 160-215,300"
    parser.add_argument("--exclude", action="append", default=[], metavar="RANGES", help=exclude)
    parser.add_argument("--max-pairs", type=int, metavar="N", help="number of windows to keep, evenly spread")
    _declare_output(parser)
    parser.set_defaults(prepare_fn=prepare_video)


def declare_photos(subparsers: Any) -> None:
    """Declare `prepare photos`."""
    text = "make pairs from sharp photographs by synthetic camera shake, as in training"
    parser = subparsers.add_parser("photos", help=text, description=text, allow_abbrev=False)
    parser.add_argument("--source", type=path, required=True, metavar="DIR", help="folder of sharp photographs, at any depth")
    parser.add_argument("--pairs-per-photo", type=int, default=1, metavar="N", help="pairs per photograph (default 1)")
    parser.add_argument("--crop", default="whole", metavar="PIXELS", help="side of a random square; whole (default): the whole photograph")
    parser.add_argument("--blur-length", default="0,25", metavar="LOW,HIGH", help="length of the camera's path in pixels (default 0,25)")
    parser.add_argument(
        "--blur-inertia", default="0.9,0.995", metavar="LOW,HIGH", help="steadiness of the camera; 1 is a straight line (default 0.9,0.995)"
    )
    parser.add_argument("--blur-cross", type=float, default=1.0, metavar="X", help="ratio of vertical to horizontal speed (default 1)")
    parser.add_argument("--blur-variation", type=float, default=0.5, metavar="X", help="camera roll in the corners (default 0.5)")
    parser.add_argument("--blur-saturation", type=float, default=0.5, metavar="X", help="how far highlights exceed white (default 0.5)")
    noise = "variance of Gaussian noise, image scale [0, 1] (default 0,0, because training adds noise)"
    parser.add_argument("--noise-variance", default="0,0", metavar="LOW,HIGH", help=noise)
    _declare_output(parser)
    parser.set_defaults(prepare_fn=prepare_photos)


def prepare_video(arguments: argparse.Namespace) -> int:
    """Run `prepare video`."""
    from functools import partial

    from drsn_jax.data.making.averaging import gamma_response, read_response
    from drsn_jax.data.making.video import open_sources
    from drsn_jax.data.making.video_pairs import VideoPairs, describe, make_video_pairs, plan_video_pairs

    if arguments.response and arguments.gamma is not None:
        raise InputError(f"--gamma={arguments.gamma:g} and --response={arguments.response} exclude each other; give one")
    gamma = 2.2 if arguments.gamma is None else arguments.gamma
    making = VideoPairs(
        sources=tuple(open_sources(arguments.source)),
        frames=_range("frames", arguments.frames),
        stride=None if arguments.stride == "auto" else _number("stride", arguments.stride),
        response=read_response(arguments.response) if arguments.response else gamma_response(gamma),
        min_motion=arguments.min_motion,
        cut_threshold=arguments.cut_threshold,
        exclude=tuple(_range("exclude", part) for text in arguments.exclude for part in text.split(",") if part.strip()),
        max_pairs=arguments.max_pairs,
        seed=arguments.seed,
    )
    making.check()

    def plan(report: Any) -> Sequence[dict[str, Any]]:
        lines, notes = plan_video_pairs(making, report)
        report.close()
        sys.stdout.write("".join(f"{note}\n" for note in notes))
        return lines

    return _make(arguments, _Making("AveragedVideo", describe(making), plan, partial(make_video_pairs, making=making), 16, False))


def prepare_photos(arguments: argparse.Namespace) -> int:
    """Run `prepare photos`."""
    from functools import partial

    from drsn_jax.data.making.photo_pairs import PhotoPairs, describe, list_photos, make_photo_pairs, plan_photo_pairs
    from drsn_jax.data.synthesis.camera_shake import BlurRecipe

    recipe = BlurRecipe(
        length=_pair("blur-length", arguments.blur_length),
        inertia=_pair("blur-inertia", arguments.blur_inertia),
        cross=arguments.blur_cross,
        variation=arguments.blur_variation,
        saturation=arguments.blur_saturation,
        noise_variance=_pair("noise-variance", arguments.noise_variance),
    )
    crop = None if arguments.crop == "whole" else _number("crop", arguments.crop)
    making = PhotoPairs(arguments.source, arguments.pairs_per_photo, crop, recipe, arguments.seed)
    making.check()
    photos = list_photos(making.folder)
    plan = partial(plan_photo_pairs, photos, making)
    settings = describe(making, photos if arguments.beam_runner else None)
    return _make(arguments, _Making("BlurredPhotos", settings, plan, partial(make_photo_pairs, making=making), 1, True))


def _declare_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=path, metavar="DIR", help="folder for the pairs; an interrupted run is resumed there")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random draws (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace pairs made with other settings")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), metavar="N", help="threads that encode images")
    beam = "make a data set with Apache Beam instead of files: DirectRunner (this machine), DataflowRunner, PortableRunner, ..."
    parser.add_argument("--beam-runner", metavar="NAME", help=beam)
    parser.add_argument("--beam-options", action="append", default=[], metavar="OPTIONS", help="such as '--project=P,--region=R'")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of prepared data sets, with --beam-runner")


def _make(arguments: argparse.Namespace, making: _Making) -> int:
    if (arguments.output is None) == (arguments.beam_runner is None) or (arguments.beam_runner is None) != (arguments.data_dir is None):
        raise InputError("Give either --output=DIR (files), or --beam-runner=NAME with --data-dir=DIR (a data set made by Apache Beam)")
    if arguments.workers < 1:
        raise InputError(f"--workers={arguments.workers} is too small; use 1 or more")
    if arguments.beam_runner:
        return _make_with_beam(arguments, making)
    from drsn_jax.data.making.pair_writer import check_apart, make_pairs

    sources = arguments.source if isinstance(arguments.source, list) else [arguments.source]
    check_apart(arguments.output, sources)
    made = make_pairs(
        output=arguments.output,
        settings=making.settings,
        plan_fn=making.plan_fn,
        examples_fn=making.examples_fn,
        extend=making.extend,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
    )
    sys.stdout.write(f"{made.total} pairs in {arguments.output} ({made.new} made now); train with --config.train_dir={arguments.output}\n")
    return 0


def _make_with_beam(arguments: argparse.Namespace, making: _Making) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # before TensorFlow is imported: it prints a greeting to stderr
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        from drsn_jax.data.making import beam_pairs, beam_runners
    except ImportError as error:
        raise InputError(f"--beam-runner needs tensorflow_datasets ({error}): pip install 'drsn-jax[data,beam]'") from error
    from drsn_jax.system.progress import Progress

    folder, number = beam_pairs.prepare_with_beam(
        getattr(beam_pairs, making.builder),
        data_dir=arguments.data_dir if scheme_of(arguments.data_dir) in PACKAGES else str(local_path(arguments.data_dir)),
        runner=arguments.beam_runner,
        options=beam_runners.parse_options(arguments.beam_options),
        settings=making.settings,
        plan_fn=lambda: beam_pairs.blocks(making.plan_fn(Progress()), size=making.block),
        examples_fn=making.examples_fn,
        overwrite=arguments.overwrite,
    )
    sys.stdout.write(f"{number} pairs in {folder}\n")
    return 0


def _number(option: str, text: str) -> int:
    if not text.strip().isdecimal():
        raise InputError(f"--{option}: {text!r} is not a whole number; see `drsn-jax prepare --help`")
    return int(text)


def _pair(option: str, text: str) -> tuple[float, float]:
    try:
        low, _, high = text.partition(",")
        return float(low), float(high or low)
    except ValueError:
        raise InputError(f"--{option}={text} is not a range; write LOW,HIGH, such as 0,25") from None


def _range(option: str, text: str) -> tuple[int, int]:
    """Parse '7-13' as (7, 13) and '9' as (9, 9)."""
    low, dash, high = text.partition("-")
    return _number(option, low), _number(option, high if dash else low)
