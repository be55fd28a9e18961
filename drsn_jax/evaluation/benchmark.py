"""From a prepared data set or folders to what is evaluated and how it is scored: each benchmark by its own protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from drsn_jax.data.pairs import list_images, match_folders
from drsn_jax.data.stored import PreparedSplit, open_prepared
from drsn_jax.errors import InputError
from drsn_jax.evaluation import entries as found
from drsn_jax.evaluation.protocols import BENCHMARKS, PROTOCOLS, check_protocol
from drsn_jax.evaluation.scorers import Scorer, make_koehler_scorer, make_noreference_scorer, make_paired_scorer, make_realblur_scorer


class Benchmark(NamedTuple):
    """Images, how they are scored, and what a report says of them (folders or data set)."""

    entries: list[found.Entry]
    scorer: Scorer
    protocol: str
    description: dict[str, Any]


def open_benchmark(
    *,
    data: str | None,
    data_dir: Path | None,
    blurred: Path | None,
    sharp: Path | None,
    protocol: str | None,
    blur_folder: str,
    compared: Mapping[str, Path],
    lpips: bool,
) -> Benchmark:
    """Opens a prepared data set (`data`), or folders of blurred and sharp images.

    Without a `protocol` a prepared RealBlur or Köhler is scored by its own, images without sharp ones by scores that need none, everything
    else in full. Raises InputError for data that is not there or does not fit the protocol.
    """
    if (data is None) == (blurred is None):
        raise InputError(
            "Give the images to evaluate on, either --data=NAME:SPLIT (see `drsn-jax prepare`) or --blurred=DIR with --sharp=DIR."
        )
    if protocol is not None:
        check_protocol(protocol)
    if data is not None:
        if sharp is not None:
            raise InputError(f"--sharp does nothing beside --data={data}, which knows its sharp images; leave it away.")
        prepared = open_prepared(data, data_dir=data_dir)
        protocol = protocol or _own_protocol(prepared)
        entries, single = _prepared_entries(prepared, protocol)
        description = {"data": prepared.name}
    else:
        assert blurred is not None
        protocol = protocol or ("full" if sharp else "noreference")
        entries, single = _folder_entries(blurred, sharp, protocol, blur_folder)
        description = {"blurred": str(blurred), "sharp": str(sharp) if sharp else None, "blur_folder": blur_folder}
    entries = found.add_others(entries, compared) if compared else entries
    return Benchmark(entries, _make_scorer(protocol, entries, single_truth=single, lpips=lpips), protocol, description)


def _own_protocol(prepared: PreparedSplit) -> str:
    if prepared.name.startswith("lai/nonuniform"):
        return "noreference"  # its sharp images are shown: they are not, pixel for pixel, what the camera saw (SPEC section 3)
    if prepared.kind == "pairs":
        return "realblur" if prepared.name.startswith("realblur") else "full"
    return "koehler" if prepared.kind == "koehler" else "noreference"


def _prepared_entries(prepared: PreparedSplit, protocol: str) -> tuple[list[found.Entry], bool]:
    """Entries, and whether Köhler's truths are but one a scene."""
    if protocol == "koehler" and prepared.kind == "koehler":
        truths = {(one.scene, one.trajectory): prepared.truths(one.scene, one.trajectory) for one in prepared.blurred}
        single = all(len(frames) == 1 for frames in truths.values())
        return found.koehler_entries({one.name: one.image for one in prepared.blurred}, truths), single
    if protocol == "noreference":
        if prepared.pairs:
            return found.paired_entries(prepared.pairs), False
        return found.unpaired_entries({one.name: one.image for one in prepared.blurred}), False
    if protocol == "koehler" or prepared.kind != "pairs":
        fitting = f"{_own_protocol(prepared)}{'' if prepared.kind == 'pairs' else ' or noreference'}"
        raise InputError(f"{prepared.name} cannot be scored by the protocol {protocol}; use {fitting}, or leave --protocol away.")
    return found.paired_entries(prepared.pairs), False


def _folder_entries(blurred: Path, sharp: Path | None, protocol: str, blur_folder: str) -> tuple[list[found.Entry], bool]:
    """Entries, and whether Köhler's truths are but one a scene."""
    if protocol == "noreference":
        if sharp is not None:
            raise InputError("The protocol noreference takes no sharp images; leave --sharp away, or choose the protocol full.")
        images = list_images(found.existing_folder(blurred))
        if not images:
            raise InputError(f"{blurred} holds no images; give a folder of blurred images.")
        return found.unpaired_entries(images), False
    if sharp is None:
        raise InputError(f"The protocol {protocol} compares with sharp images; give their folder, --sharp=DIR.")
    if protocol == "koehler":
        truths, single = found.find_koehler_truths(sharp)
        images = list_images(found.existing_folder(blurred))
        if not images:
            raise InputError(f"{blurred} holds no images; give the folder of Blurry1_1.png ... Blurry4_12.png.")
        return found.koehler_entries(images, truths), single
    return found.paired_entries(match_folders(blurred, sharp, blur_folder=blur_folder)), False


def _make_scorer(protocol: str, entries: list[found.Entry], *, single_truth: bool, lpips: bool) -> Scorer:
    if lpips and protocol not in PROTOCOLS:
        raise InputError(f"LPIPS is for pairs under {', '.join(PROTOCOLS)}; leave --lpips away with the protocol {protocol}.")
    if protocol == "realblur":
        return make_realblur_scorer()
    if protocol == "koehler":
        return make_koehler_scorer(single_truth=single_truth)
    if protocol == "noreference":
        return make_noreference_scorer()
    assert protocol not in BENCHMARKS
    return make_paired_scorer(smallest_side=found.smallest_side(entries, protocol=protocol), lpips=lpips)
