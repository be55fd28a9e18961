"""Devices of this machine by the names that users type."""

from typing import Any

import jax

from drsn_jax.system.errors import InputError

_PLATFORMS = ("cpu", "gpu", "tpu")


def find_devices(name: str | None = None) -> list[Any]:
    """Find the devices of this process called `cpu`, `gpu` or `tpu` (all of that kind) or `gpu:1` (one, counted from 0).

    None gives all devices of JAX's default kind. Raises InputError, listing the devices, if none has that name.
    """
    if name is None:
        return list(jax.local_devices())
    devices = {f"{platform}:{i}": device for platform in _PLATFORMS for i, device in enumerate(_devices_of(platform))}
    found = [device for label, device in devices.items() if name.lower() in (label, label.partition(":")[0])]
    if not found:
        raise InputError(f"jax finds no device {name!r} on this machine; use one of {', '.join(devices)} (--device={next(iter(devices))}).")
    return found


def find_device(name: str | None) -> Any:
    """Find the first device of that name, for `load_model`; None (JAX's default) for None. Raises InputError as `find_devices`."""
    return find_devices(name)[0] if name else None


def _devices_of(platform: str) -> list[Any]:
    try:
        return list(jax.local_devices(backend=platform))
    except RuntimeError:  # there is none of that kind, or JAX may not or cannot start it
        return []
