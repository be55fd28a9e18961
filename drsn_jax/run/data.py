"""A run's data: an iterator of batches on the devices from any step, and the validation images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from drsn_jax.config.build import count_parts, make_keys, make_recipe, make_stages
from drsn_jax.data.images.rgb import smallest_size
from drsn_jax.data.pairs import folders as pair_files
from drsn_jax.data.pairs.pipeline import make_batches
from drsn_jax.data.synthesis import clips, resident
from drsn_jax.data.synthesis.bank import Bank, make_bank
from drsn_jax.data.synthesis.objects import Shapes
from drsn_jax.run.images import (
    ValidationFn,
    count_bad_images,
    draw_run_sheets,
    find_pairs,
    open_validation,
    read_resident_images,
    read_run_clips,
    read_run_shapes,
)
from drsn_jax.system.errors import InputError
from drsn_jax.training.schedule import Stage, stage_spans
from drsn_jax.training.sharding import check_batch_size, divides, over_data, replicate, shard_batch, spread_rows


class Data(NamedTuple):
    """The training and validation data of a run."""

    description: str
    num_images: int  # images or pairs for training
    stream_fn: Callable[[int, int], Iterator[dict[str, jax.Array]]]  # (start step, num_train_steps) -> batches
    validation_fn: ValidationFn | None  # a new iterator for each evaluation


class Held(NamedTuple):
    """The data in the memory of the devices."""

    bank: Bank  # photographs or pairs
    clip: clips.Clip | None
    shapes: Shapes | None  # shapes of objects


def open_data(config: Mapping[str, Any], *, mesh: Mesh) -> Data:
    """Open the data of a configuration. Raises InputError for unusable folders and images."""
    stages = make_stages(config)
    for stage in stages:
        check_batch_size(stage.batch_size, devices=mesh.size, accumulation_steps=config["accumulation_steps"])
    return (_open_pairs if config["data"] == "pairs" else _open_resident)(config, stages, mesh)


def _open_pairs(config: Mapping[str, Any], stages: Sequence[Stage], mesh: Mesh) -> Data:
    found = find_pairs(config, "train_dir")
    crop_size = max(stage.crop_size for stage in stages)
    bad_images = count_bad_images(config, len(found), "training pairs")
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
    return Data(text, len(found), stream, open_validation(config))


def _open_resident(config: Mapping[str, Any], stages: Sequence[Stage], mesh: Mesh) -> Data:
    if config["cache"]:
        raise InputError(f"cache=True is for data=pairs; data={config['data']} is always held on the device (--config.cache=False).")
    rows = {stage: _clip_rows(config, stage) for stage in stages}
    for stage in stages:
        _drawn_share(config, stage, of_clip=rows[stage])  # raises before anything is read
    crop_size = max(stage.crop_size for stage in stages)
    shapes = read_run_shapes(config)
    images, validation_fn = read_resident_images(config, crop_size=crop_size, shapes=shapes)
    sheets = draw_run_sheets(config, crop_size=crop_size)
    named = images | sheets
    bank = make_bank(list(named.values()), names=list(named), crop_size=crop_size, drawn=len(sheets))
    clip, shares = read_run_clips(config, crop_size=crop_size) or (None, {})
    held, key = replicate((Held(bank, clip, shapes), make_keys(config["seed"]).data), mesh)

    def stream(start_step: int, num_train_steps: int) -> Iterator[dict[str, jax.Array]]:
        for stage, first, end in stage_spans(stages, start_step=start_step, num_train_steps=num_train_steps):
            make_batch = _make_resident_batch_fn(config, stage, of_clip=rows[stage], mesh=mesh)
            batch_fn = jax.jit(
                lambda held, key, step, make=make_batch: make(held, jax.random.fold_in(key, step)), out_shardings=over_data(mesh)
            )
            for step in range(first, end):
                yield batch_fn(held, key, replicate(np.int32(step), mesh))

    kind = "pairs" if config["data"] == "resident" else "photographs, blurred there"
    megapixels = sum(image.shape[0] * image.shape[1] for image in images.values()) / 1e6
    text = f"{len(images)} {kind}, {megapixels:.1f} megapixels, held on the device"
    if sheets:
        text += f"; {len(sheets)} sheets of text and lines"
    if shapes is not None:
        text += f"; {len(shapes)} shapes of objects"
    if clip is not None:
        windows = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items())
        text += f"; {len(clip.following)} frames, windows {windows}"
        if uneven := [number for number in rows.values() if not divides(mesh, number)]:
            text += f"; every device makes the whole batch, since {uneven[0]} rows of frames do not divide over {mesh.size} devices"
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


def _drawn_share(config: Mapping[str, Any], stage: Stage, *, of_clip: int) -> float:
    """Return the share of drawings in the crops of the bank that makes `text_share` of the batch. Raises InputError if it exceeds 1."""
    of_bank = 1 - of_clip / (stage.batch_size * count_parts(config))
    share = config["text_share"] if config["data"] in ("photos", "demo") else 0.0
    if share > of_bank:
        raise InputError(
            f"text_share={share:g} and frames_share={config['frames_share']:g} are more than a whole batch;"
            f" use --config.text_share={of_bank:g} or less."
        )
    return share / of_bank if share else 0.0


def _make_resident_batch_fn(
    config: Mapping[str, Any], stage: Stage, *, of_clip: int, mesh: Mesh
) -> Callable[[Held, jax.Array], dict[str, jax.Array]]:
    """Make (held, key) -> batch with `of_clip` rows of the clip and the others of the bank. Devices make their own rows if both divide."""
    total = stage.batch_size * count_parts(config)
    drawn_share = _drawn_share(config, stage, of_clip=of_clip)
    options = {"crop_size": stage.crop_size, "flip": config["flip"], "rotate": config["rotate"], "candidates": config["crop_candidates"]}
    options["mesh"] = mesh
    noise = {"noise_variance": tuple(config["noise_variance"]), "noise_share": config["noise_share"]}
    of_bank_fn = resident.make_batch_fn(batch_size=total - of_clip, recipe=make_recipe(config), drawn_share=drawn_share, **options)
    averaged = {"averaged": tuple(config["frames_averaged"]), "odd": config["frames_odd"]}
    of_clip_fn = clips.make_clip_batch_fn(batch_size=of_clip, **averaged, **noise, **options)
    if not of_clip:
        return lambda held, key: of_bank_fn(held.bank, key, held.shapes)
    if of_clip == total:
        return lambda held, key: of_clip_fn(held.clip, key)  # pyright: ignore[reportArgumentType]

    def batch(held: Held, key: jax.Array) -> dict[str, jax.Array]:
        bank_key, clip_key, order_key = jax.random.split(key, 3)
        of_bank, of_clip = of_bank_fn(held.bank, bank_key, held.shapes), of_clip_fn(held.clip, clip_key)  # pyright: ignore[reportArgumentType]
        return spread_rows(_mix, whole=1, mesh=mesh)(order_key, of_bank, of_clip)

    return batch


def _mix(key: jax.Array, *parts: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Shuffle the rows of all parts, so that micro-batches get a mixture. Devices already have rows of each part."""
    order = jax.random.permutation(key, sum(len(part["sharp"]) for part in parts))
    return {name: jnp.concatenate([part[name] for part in parts])[order] for name in parts[0]}
