"""The images of a run, read from disk: training images that are held on the device, and validation images."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8

from drsn_jax.config.build import make_keys, make_recipe
from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.rgb import fit_frame, fitted_size, smallest_size
from drsn_jax.data.making.clip_folders import read_clips
from drsn_jax.data.pairs import folders as pair_files
from drsn_jax.data.prepared import stored
from drsn_jax.data.synthesis import drawings, photos
from drsn_jax.data.synthesis.bank import check_room
from drsn_jax.data.synthesis.clips import Clip
from drsn_jax.data.synthesis.objects import Shapes, read_shapes
from drsn_jax.run.writer import warn
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import local_path, local_paths

ValidationFn = Callable[[], Iterator[photos.Sample | None]]  # None for an image that was skipped


def find_pairs(config: Mapping[str, Any], key: str) -> list[pair_files.Pair]:
    """Find the pairs below `train_dir` or `eval_dir`. Raises InputError if the key is empty or the folder has no pairs."""
    if not config[key]:
        raise InputError(f"data={config['data']} needs pairs to train on: give --config.{key}=DIR, or --config.data=photos or demo.")
    split = "train" if key == "train_dir" else "validation"
    return stored.find_pairs_or_prepared(config[key], blur_folder=config["blur_folder"], default_split=split)


def count_bad_images(config: Mapping[str, Any], total: int, what: str) -> BadImages:
    """Make the counter of damaged images among `total`, which skips or raises according to `on_bad_image`."""
    return BadImages(total, what=what, skip=config["on_bad_image"] == "skip", tell_fn=warn)


def _read_resident_pairs(config: Mapping[str, Any], *, crop_size: int) -> dict[str, UInt8[np.ndarray, "_ _ 6"]]:
    """Read pairs by name, fitted according to `frame`. Their memory is computed from the headers before any is decoded."""
    fit = {"frame": config["frame"], "crop_size": crop_size}
    found = find_pairs(config, "train_dir")
    bad_images = count_bad_images(config, len(found), "training pairs")
    found = pair_files.check_pairs(found, min_size=smallest_size(**fit), bad_images=bad_images)
    sizes = [fitted_size(pair_files.image_size(p.sharp), **fit) for p in found]
    check_room(sum(height * width for height, width in sizes), channels=6)

    def read(pair: pair_files.Pair) -> np.ndarray:
        return np.concatenate([fit_frame(pair_files.read_rgb(path), **fit) for path in (pair.blurred, pair.sharp)], axis=-1)

    images = {p.name: bad_images.read(str(p.blurred), partial(read, p)) for p in found}
    return {name: image for name, image in images.items() if image is not None}


def read_resident_images(
    config: Mapping[str, Any], *, crop_size: int, shapes: Shapes | None
) -> tuple[dict[str, UInt8[np.ndarray, "_ _ c"]], ValidationFn | None]:
    """Read training images ([h w 3], or pairs [h w 6]) by name, and the validation images."""
    if config["data"] == "resident":
        return _read_resident_pairs(config, crop_size=crop_size), open_validation(config)
    if config["frame"] != "crop":
        raise InputError(f"frame={config['frame']} is for pairs; data={config['data']} is blurred on crops (--config.frame=crop).")
    if config["data"] == "demo":
        training, held = photos.read_demo_photos(photos.DEMO_TRAINING), photos.read_demo_photos(photos.DEMO_HELD_OUT)
    else:
        if not config["train_dir"]:
            raise InputError("data=photos needs photographs to train on: give --config.train_dir=DIR.")
        found, found_held = photos.find_photos(local_path(config["train_dir"])), {}
        if not config["eval_dir"]:  # split before reading, so that an unreadable image does not move others to the other side
            found, found_held = photos.hold_out(found, every=config["hold_out_every"])
        training = photos.read_photos(found, bad_images=count_bad_images(config, len(found), "photographs"))
        held = photos.read_photos(found_held, bad_images=count_bad_images(config, len(found_held), "photographs held out"))
    if config["eval_dir"]:
        return training, open_validation(config)
    blurred = photos.blur_photographs(
        held, recipe=make_recipe(config), copies=config["eval_copies"], key=make_keys(config["seed"]).validation, shapes=shapes
    )
    return training, partial(iter, pair_files.spread(blurred, config["eval_images"] or len(blurred)))


def open_validation(config: Mapping[str, Any]) -> ValidationFn | None:
    """Make the function that reads the pairs of eval_dir for each evaluation; None without eval_dir."""
    if not config["eval_dir"]:
        return None
    found = find_pairs(config, "eval_dir")
    found = pair_files.spread(found, config["eval_images"] or len(found))
    bad_images = count_bad_images(config, len(found), "validation pairs")
    min_size = {"full": 11, "half": 22, "resize256": 1}[config["eval_protocol"]]  # SSIM's window is 11x11
    pair_files.check_pairs(found, min_size=min_size, bad_images=bad_images)

    def read(pair: pair_files.Pair) -> photos.Sample:
        return pair.name, pair_files.read_rgb(pair.blurred), pair_files.read_rgb(pair.sharp)

    return lambda: (bad_images.read(str(p.blurred), partial(read, p)) for p in found)


def read_run_shapes(config: Mapping[str, Any]) -> Shapes | None:
    """Read the shapes of `object_masks`; None if it is empty."""
    if not config["object_masks"]:
        return None
    return read_shapes(local_paths(config["object_masks"]), bad_images_fn=partial(count_bad_images, config, what="masks of objects"))


def draw_run_sheets(config: Mapping[str, Any], *, crop_size: int) -> dict[str, UInt8[np.ndarray, "s s 3"]]:
    """Draw sheets of text and lines by name, each at least as large as a crop; none for pairs or if `text_share` is 0."""
    if not config["text_share"] or config["data"] not in ("photos", "demo"):
        return {}
    fonts = drawings.list_fonts(local_path(config["text_fonts"])) if config["text_fonts"] else ()
    sheets = drawings.draw_sheets(number=drawings.SHEETS, side=max(drawings.SIDE, crop_size), seed=config["seed"], fonts=fonts)
    return {f"drawing {i}": sheet for i, sheet in enumerate(sheets)}


def read_run_clips(config: Mapping[str, Any], *, crop_size: int) -> tuple[Clip, dict[str, float]] | None:
    """Read the frames of `frames_dir`, and each folder's share of the windows; None if it is empty."""
    if not config["frames_dir"]:
        return None
    return read_clips(
        local_paths(config["frames_dir"]),
        crop_size=crop_size,
        averaged=tuple(config["frames_averaged"]),
        odd=config["frames_odd"],
        sharpness=config["frames_sharpness"],
        bad_images_fn=partial(count_bad_images, config, what="frames of the clip"),
    )
