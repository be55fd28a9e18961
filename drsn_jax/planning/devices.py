"""A run that fits the devices at hand: mesh, precision, batch and memory (for notebooks and `info --fit=here`)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from drsn_jax.config.build import make_stages
from drsn_jax.config.files import overridden_keys
from drsn_jax.planning.fit import Proposal, check, command_line, keep_recipe, measure_lines, shrink_crop
from drsn_jax.planning.memory import Say, smallest_batch
from drsn_jax.run.workdir import CONFIG_FILE, keep_stored, read_stored
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath
from drsn_jax.training.schedule import Stage

SIZES = ("stages", "crop_size", "batch_size", "remat", "accumulation_steps")
HEADROOM = 0.1  # of the usable memory, for prefetched batches and fragmentation


class Devices(NamedTuple):
    """The devices of a run, all of one kind. `memory`: bytes that a program may use on one; None if the back end does not report it."""

    count: int
    platform: str  # cpu, gpu, tpu
    kind: str
    compute_capability: str | None = None  # for NVIDIA's GPUs: 7.5, 8.0, ...
    memory: int | None = None


class Suited(NamedTuple):
    """A configuration for the devices, and lines that state each choice with its reason."""

    config: dict[str, Any]
    text: str


def survey_devices() -> Devices:
    """Describe the devices that JAX finds."""
    first = jax.local_devices()[0]
    memory = (first.memory_stats() or {}).get("bytes_limit")
    return Devices(jax.device_count(), first.platform, first.device_kind, getattr(first, "compute_capability", None), memory)


def choose_dtype(devices: Devices) -> tuple[str, str]:
    """Choose the precision of computations, with the reason: bfloat16 if the hardware multiplies it fast, else float32."""
    if devices.platform == "tpu":
        return "bfloat16", "a TPU multiplies it natively"
    if devices.platform != "gpu":
        return "float32", f"bfloat16 is slower on {devices.platform}"
    major = (devices.compute_capability or "").split(".")[0]
    if major.isdecimal() and int(major) >= 8:
        return "bfloat16", f"compute capability {devices.compute_capability} supports it"
    return "float32", f"bfloat16 needs compute capability 8, this is {devices.compute_capability or 'none'}"


def fit_config_to_devices(
    config: Mapping[str, Any], *, overrides: Sequence[str] = (), workdir: AnyPath | None = None, devices: Devices | None = None, say: Say
) -> Suited:
    """Choose precision, batch, crop, remat and micro-batches for the given devices (default: those that JAX finds).

    The recipe's batch is rounded up to a multiple of the devices. If their memory is known, the step is compiled, and if it does not fit,
    changed as in `info --fit`. That takes one to eleven compilations, reported through `say`. Images held on the device are not counted.
    Keys in `overrides` (--config.key=value) keep their values. So do those of an existing run in `workdir`, because its checkpoints depend
    on them. Raises InputError if nothing fits.
    """
    devices, given = devices or survey_devices(), overridden_keys(overrides)
    stored = read_stored(workdir / CONFIG_FILE) if workdir else None
    needed = None
    if workdir and stored is not None:
        config = {**config, **{key: stored[key] for key in ("dtype", *SIZES) if key in stored and key not in given}}
        config = keep_stored(config, workdir, given=given)
        reason = f"the value of the run in {workdir}"
    elif "dtype" in given:
        reason = "as given"
    else:
        dtype, reason = choose_dtype(devices)
        config = {**config, "dtype": dtype}
    if stored is None and not given.intersection(SIZES):
        changes, needed = _choose_sizes(config, devices, say=say)
        config = {**config, **changes}
    return Suited(dict(config), _describe(config, devices, reason=reason, needed=needed))


def describe_here(config: Mapping[str, Any], *, name: str, overrides: Sequence[str] = (), devices: Devices | None = None, say: Say) -> str:
    """Return the choice of `fit_config_to_devices` and its command line; the configuration was made from `name` and `overrides`."""
    suited = fit_config_to_devices(config, overrides=overrides, devices=devices, say=say)
    chosen = {key: suited.config[key] for key in ("dtype", *SIZES) if suited.config[key] != config[key]}
    changes = {key: str(value).replace(" ", "") for key, value in chosen.items()}
    return f"{suited.text}\n{command_line(config, changes, name=name, overrides=overrides)}\n"


def _choose_sizes(config: Mapping[str, Any], devices: Devices, *, say: Say) -> tuple[dict[str, Any], int | None]:
    """Return the changes of `SIZES`, and the bytes that each device needs (None if its memory is unknown)."""
    count, remat, steps = devices.count, config["remat"], config["accumulation_steps"]
    multiple = count * steps
    whole = tuple(stage._replace(batch_size=-(-stage.batch_size // multiple) * multiple) for stage in make_stages(config))
    if devices.memory is None:
        return _as_keys(whole), None
    smallest = smallest_batch(config)
    each = tuple(stage._replace(batch_size=max(stage.batch_size // count, smallest)) for stage in whole)  # the share of one device
    limit = _limit(devices)
    largest = max(each, key=lambda stage: stage.batch_size * stage.crop_size**2)
    try:
        needed = check(config, largest, remat=remat, accumulation_steps=steps, say=say)
    except InputError as error:  # memory is unknown, or the configuration is invalid, which training reports too
        say(str(error))
        return _as_keys(whole), None
    found = Proposal(each, remat, steps, needed) if needed <= limit else None
    if found is None:
        lines = measure_lines(config, each, say=say)
        search = {"limit": limit, "say": say}
        found = keep_recipe(config, each, lines, **search) or shrink_crop(config, each, lines, **search)
    if found is None:
        raise InputError(
            f"Nothing of this configuration fits the {limit / 1e9:.2f} GB of {devices.kind}; use a smaller network"
            " (--config.widths=32,64,128) or a larger device."
        )
    scaled = tuple(stage._replace(batch_size=stage.batch_size * count) for stage in found.stages)
    sizes = _as_keys(whole if found.stages == each else scaled)
    return sizes | {"remat": found.remat, "accumulation_steps": found.accumulation_steps}, found.needed


def _as_keys(stages: tuple[Stage, ...]) -> dict[str, Any]:
    [(_, crop_size, batch_size), *later] = stages
    return {"stages": tuple(map(tuple, stages))} if later else {"stages": (), "crop_size": crop_size, "batch_size": batch_size}


def _limit(devices: Devices) -> int:
    return int((devices.memory or 0) * (1 - HEADROOM))


def _describe(config: Mapping[str, Any], devices: Devices, *, reason: str, needed: int | None) -> str:
    each = "" if devices.memory is None else f", {devices.memory / 1e9:.1f} GB usable on each"
    crops = [f"{stage.batch_size} crops of {stage.crop_size} from step {stage.first_step}" for stage in make_stages(config)]
    memory = f"; {needed / 1e9:.2f} of {_limit(devices) / 1e9:.2f} GB on each device, compiled" if needed else ""
    return "\n".join(
        [
            f"Mesh: {devices.count} device(s) along the axis `data`: {devices.platform}, {devices.kind}{each}",
            f"Precision: {config['dtype']} ({reason})",
            f"Batch: {', '.join(crops)}; micro-batches: {config['accumulation_steps']}, remat: {config['remat']}{memory}",
        ]
    )
