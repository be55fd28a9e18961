"""A run's data: an iterator of batches on the devices from any step, and the validation images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from drsn_jax.config.build import count_parts, make_keys, make_recipe, make_stages
from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.rgb import fit_frame, fitted_size, smallest_size
from drsn_jax.data.pairs import folders as pair_files
from drsn_jax.data.pairs.pipeline import make_batches
from drsn_jax.data.prepared import stored
from drsn_jax.data.synthesis import clips, photos, resident
from drsn_jax.run.writer import warn
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import local_path
from drsn_jax.training.schedule import Stage, stage_spans
from drsn_jax.training.sharding import check_batch_size, over_data, replicate, shard_batch

ValidationFn = Callable[[], Iterator[photos.Sample | None]]  # None for an image that was skipped


class Data(NamedTuple):
    """The training and validation data of a run."""

    description: str
    num_images: int  # images or pairs for training
    stream_fn: Callable[[int, int], Iterator[dict[str, jax.Array]]]  # (start step, num_train_steps) -> batches
    validation_fn: ValidationFn | None  # a new iterator for each evaluation


def open_data(config: Mapping[str, Any], *, mesh: Mesh) -> Data:
    """Open the data of a configuration. Raises InputError for unusable folders and images."""
    stages = make_stages(config)
    for stage in stages:
        check_batch_size(stage.batch_size, devices=mesh.size, accumulation_steps=config["accumulation_steps"])
    return (_open_pairs if config["data"] == "pairs" else _open_resident)(config, stages, mesh)


def _find_pairs(config: Mapping[str, Any], key: str) -> list[pair_files.Pair]:
    if not config[key]:
        raise InputError(f"data={config['data']} needs pairs to train on: give --config.{key}=DIR, or --config.data=photos or demo.")
    split = "train" if key == "train_dir" else "validation"
    return stored.find_pairs_or_prepared(config[key], blur_folder=config["blur_folder"], default_split=split)


def _bad_images(config: Mapping[str, Any], total: int, what: str) -> BadImages:
    return BadImages(total, what=what, skip=config["on_bad_image"] == "skip", tell_fn=warn)


def _open_pairs(config: Mapping[str, Any], stages: Sequence[Stage], mesh: Mesh) -> Data:
    found = _find_pairs(config, "train_dir")
    crop_size = max(stage.crop_size for stage in stages)
    bad_images = _bad_images(config, len(found), "training pairs")
    pair_files.check_pairs(found, min_size=smallest_size(frame=config["frame"], crop_size=crop_size), bad_images=bad_images)
    keys = ("seed", "frame", "flip", "rotate", "cache", "prefetch", "noise_share")

    def stream(start_step: int, num_train_steps: int) -> Iterator[dict[str, jax.Array]]:
        for stage, first, end in stage_spans(stages, start_step=start_step, num_train_steps=num_train_steps):
            batches = make_batches(
                found,
                batch_size=stage.batch_size * count_parts(config),
                crop_size=stage.crop_size,
                start_step=first,
                num_steps=end - first,
                noise_variance=tuple(config["noise_variance"]),
                bad_images=bad_images,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                **{key: config[key] for key in keys},
            )
            yield from (shard_batch(batch, mesh) for batch in batches)

    text = f"{len(found)} pairs from {config['train_dir']} ({config['blur_folder']}, frame={config['frame']}) through tf.data"
    return Data(text, len(found), stream, _validation_from(config))


def _open_resident(config: Mapping[str, Any], stages: Sequence[Stage], mesh: Mesh) -> Data:
    if config["cache"]:
        raise InputError(f"cache=True is for data=pairs; data={config['data']} is always held on the device (--config.cache=False).")
    rows = {stage: _clip_rows(config, stage) for stage in stages}
    crop_size = max(stage.crop_size for stage in stages)
    images, validation_fn = _resident_images(config, crop_size=crop_size)
    bank = resident.make_bank(list(images.values()), names=list(images), crop_size=crop_size)
    clip = None
    if config["frames_dir"]:
        options = {"averaged": tuple(config["frames_averaged"]), "bad_images_fn": partial(_bad_images, config, what="frames of the clip")}
        clip = clips.read_clip(local_path(config["frames_dir"]), crop_size=crop_size, **options)
    (bank, clip), key = replicate(((bank, clip), make_keys(config["seed"]).data), mesh)

    def stream(start_step: int, num_train_steps: int) -> Iterator[dict[str, jax.Array]]:
        for stage, first, end in stage_spans(stages, start_step=start_step, num_train_steps=num_train_steps):
            make_batch = _make_resident_batch_fn(config, stage, of_clip=rows[stage])
            batch_fn = jax.jit(
                lambda banks, key, step, make=make_batch: make(banks, jax.random.fold_in(key, step)), out_shardings=over_data(mesh)
            )
            for step in range(first, end):
                yield batch_fn((bank, clip), key, replicate(np.int32(step), mesh))

    kind = "pairs" if config["data"] == "resident" else "photographs, blurred there"
    megapixels = sum(image.shape[0] * image.shape[1] for image in images.values()) / 1e6
    text = f"{len(images)} {kind}, {megapixels:.1f} megapixels, held on the device"
    return Data(text, len(images), stream, validation_fn)


def _clip_rows(config: Mapping[str, Any], stage: Stage) -> int:
    """Return the number of clip images in a batch. Raises InputError if a share between 0 and 1 rounds to none or all of them."""
    total, share = stage.batch_size * count_parts(config), config["frames_share"]
    rows = round(total * share) if config["frames_dir"] else 0
    if config["frames_dir"] and 0 < share < 1 and rows in (0, total):
        raise InputError(
            f"frames_share={share:g} of a batch of {total} is {rows} images; use a larger batch, or --config.frames_share={rows and 1}."
        )
    return rows


def _make_resident_batch_fn(
    config: Mapping[str, Any], stage: Stage, *, of_clip: int
) -> Callable[[tuple[Any, Any], jax.Array], dict[str, jax.Array]]:
    """Make ((bank, clip), key) -> batch with images of the bank, except `rows` images of the clip."""
    total = stage.batch_size * count_parts(config)
    options = {"crop_size": stage.crop_size, "flip": config["flip"], "rotate": config["rotate"], "candidates": config["crop_candidates"]}
    noise = {"noise_variance": tuple(config["noise_variance"]), "noise_share": config["noise_share"]}
    of_bank_fn = resident.make_batch_fn(batch_size=total - of_clip, recipe=make_recipe(config), **options)
    of_clip_fn = clips.make_clip_batch_fn(batch_size=of_clip, averaged=tuple(config["frames_averaged"]), **noise, **options)
    if not of_clip:
        return lambda banks, key: of_bank_fn(banks[0], key)
    if of_clip == total:
        return lambda banks, key: of_clip_fn(banks[1], key)

    def batch(banks: tuple[Any, Any], key: jax.Array) -> dict[str, jax.Array]:
        bank_key, clip_key, order_key = jax.random.split(key, 3)
        of_bank, of_clip = of_bank_fn(banks[0], bank_key), of_clip_fn(banks[1], clip_key)
        order = jax.random.permutation(order_key, total)  # so that micro-batches and devices get a mixture
        return {name: jnp.concatenate([of_bank[name], of_clip[name]])[order] for name in of_bank}

    return batch


def _read_resident_pairs(config: Mapping[str, Any], *, crop_size: int) -> dict[str, UInt8[np.ndarray, "_ _ 6"]]:
    """Read pairs by name, fitted according to `frame`. Their memory is computed from the headers before any is decoded."""
    fit = {"frame": config["frame"], "crop_size": crop_size}
    found = _find_pairs(config, "train_dir")
    bad_images = _bad_images(config, len(found), "training pairs")
    found = pair_files.check_pairs(found, min_size=smallest_size(**fit), bad_images=bad_images)
    sizes = [fitted_size(pair_files.image_size(p.sharp), **fit) for p in found]
    resident.check_room(sum(height * width for height, width in sizes), channels=6)

    def read(pair: pair_files.Pair) -> np.ndarray:
        return np.concatenate([fit_frame(pair_files.read_rgb(path), **fit) for path in (pair.blurred, pair.sharp)], axis=-1)

    images = {p.name: bad_images.read(str(p.blurred), partial(read, p)) for p in found}
    return {name: image for name, image in images.items() if image is not None}


def _resident_images(config: Mapping[str, Any], *, crop_size: int) -> tuple[dict[str, UInt8[np.ndarray, "_ _ c"]], ValidationFn | None]:
    """Read training images ([h w 3], or pairs [h w 6]) by name, and the validation images."""
    if config["data"] == "resident":
        return _read_resident_pairs(config, crop_size=crop_size), _validation_from(config)
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
        training = photos.read_photos(found, bad_images=_bad_images(config, len(found), "photographs"))
        held = photos.read_photos(found_held, bad_images=_bad_images(config, len(found_held), "photographs held out"))
    if config["eval_dir"]:
        return training, _validation_from(config)
    blurred = photos.blur_photographs(
        held, recipe=make_recipe(config), copies=config["eval_copies"], key=make_keys(config["seed"]).validation
    )
    return training, partial(iter, pair_files.spread(blurred, config["eval_images"] or len(blurred)))


def _validation_from(config: Mapping[str, Any]) -> ValidationFn | None:
    """Make the function that reads the pairs of eval_dir for each evaluation; None without eval_dir."""
    if not config["eval_dir"]:
        return None
    found = _find_pairs(config, "eval_dir")
    found = pair_files.spread(found, config["eval_images"] or len(found))
    bad_images = _bad_images(config, len(found), "validation pairs")
    min_size = {"full": 11, "half": 22, "resize256": 1}[config["eval_protocol"]]  # SSIM's window is 11x11
    pair_files.check_pairs(found, min_size=min_size, bad_images=bad_images)

    def read(pair: pair_files.Pair) -> photos.Sample:
        return pair.name, pair_files.read_rgb(pair.blurred), pair_files.read_rgb(pair.sharp)

    return lambda: (bad_images.read(str(p.blurred), partial(read, p)) for p in found)
