"""Benchmarks from prepared data sets or folders, each with its own protocol."""

from pathlib import Path
from typing import Any, NamedTuple

from drsn_jax.data.images.listing import name_images
from drsn_jax.data.pairs.folders import match_folders
from drsn_jax.data.prepared.stored import PreparedSplit, open_prepared
from drsn_jax.evaluation.metrics.scorers import (
    Scorer,
    make_koehler_scorer,
    make_noreference_scorer,
    make_paired_scorer,
    make_realblur_scorer,
)
from drsn_jax.evaluation.scoring.entries import Entry, existing_folder, paired_entries, scored_sizes, unpaired_entries
from drsn_jax.evaluation.scoring.koehler_entries import find_koehler_truths, has_single_truths, koehler_entries, koehler_notes
from drsn_jax.evaluation.scoring.protocols import PROTOCOLS, check_protocol
from drsn_jax.system.errors import InputError


class Benchmark(NamedTuple):
    """Images, their scorer, and notes for reports about their source and limits."""

    entries: list[Entry]
    scorer: Scorer
    protocol: str
    description: dict[str, Any]
    notes: list[str]


def open_prepared_benchmark(
    data: str, *, data_dir: Path | None, protocol: str | None, trained_on: str, lpips: bool = False, aligned: bool = False
) -> Benchmark:
    """Open a prepared data set, NAME[/CONFIG][:SPLIT].

    Without a `protocol` RealBlur and Köhler are scored by their own protocols. Images without sharp ones, or with approximate ones (Lai's
    non-uniform part), are scored without them. All others are scored in full. `trained_on` is the model's blur folder; a note tells if
    GoPro's other folder is scored. Raises InputError for data that is missing or does not fit the protocol.
    """
    _check_named(protocol)
    prepared = open_prepared(data, data_dir=data_dir)
    own = _own_protocol(prepared)
    protocol = protocol or own
    notes = []
    if prepared.name.startswith("gopro/") and (prepared.name.startswith("gopro/gamma") != (trained_on == "blur_gamma")):
        notes.append(f"The model was trained with blur_folder={trained_on}, but the images are from {prepared.name.split(':')[0]}.")
    if protocol in ("koehler", "koehler_single") and prepared.kind == "koehler":
        truths = {(one.scene, one.trajectory): prepared.truths(one.scene, one.trajectory) for one in prepared.blurred}
        entries = koehler_entries({one.name: one.image for one in prepared.blurred}, truths)
    elif prepared.kind == "pairs" and not protocol.startswith("koehler"):
        entries = paired_entries(prepared.pairs)
    elif protocol == "noreference":
        entries = unpaired_entries({one.name: one.image for one in prepared.blurred})
    else:
        fitting = own if prepared.kind == "pairs" else f"{own} or noreference"
        raise InputError(f"{prepared.name} cannot be scored by the protocol {protocol}; use {fitting}, or omit --protocol.")
    return _make_benchmark(entries, protocol, {"data": prepared.name, "data_sha256": prepared.sha256}, notes, lpips=lpips, aligned=aligned)


def open_folder_benchmark(
    blurred: Path, sharp: Path | None, *, protocol: str | None, blur_folder: str, lpips: bool = False, aligned: bool = False
) -> Benchmark:
    """Open a folder of blurred images, and one of sharp images or of Köhler's ground truth.

    Without a `protocol` pairs are scored in full, and images without sharp ones by no-reference scores. Raises InputError for folders that
    do not fit the protocol.
    """
    _check_named(protocol)
    protocol = protocol or ("full" if sharp else "noreference")
    description = {"blurred": str(blurred), "sharp": str(sharp) if sharp else None}
    if protocol == "noreference":
        if sharp is not None:
            raise InputError("The protocol noreference takes no sharp images; omit --sharp, or choose the protocol full.")
        entries = unpaired_entries(_find_images(blurred))
    elif sharp is None:
        raise InputError(f"The protocol {protocol} compares with sharp images; give their folder, --sharp=DIR.")
    elif protocol.startswith("koehler"):
        entries = koehler_entries(_find_images(blurred), find_koehler_truths(sharp))
    else:
        entries = paired_entries(match_folders(blurred, sharp, blur_folder=blur_folder))
        if any(blur_folder in Path(str(entry.blurred)).relative_to(blurred).parts[:-1] for entry in entries):
            description["blur_folder"] = blur_folder  # it has had an effect
    return _make_benchmark(entries, protocol, description, [], lpips=lpips, aligned=aligned)


def _check_named(protocol: str | None) -> None:
    if protocol is not None:
        check_protocol(protocol)


def _own_protocol(prepared: PreparedSplit) -> str:
    if prepared.name.startswith("lai/nonuniform"):
        return "noreference"  # the sharp images are only shown: they are not pixel for pixel the camera's view (SPEC section 3)
    if prepared.kind == "pairs":
        return "realblur" if prepared.name.startswith("realblur") else "full"
    return "koehler" if prepared.kind == "koehler" else "noreference"


def _find_images(folder: Path) -> dict[str, Path]:
    images = name_images(existing_folder(folder))
    if not images:
        raise InputError(f"{folder} holds no images; give a folder of blurred images.")
    return images


def _make_benchmark(
    entries: list[Entry], protocol: str, description: dict[str, Any], notes: list[str], *, lpips: bool, aligned: bool
) -> Benchmark:
    """Make a benchmark. Köhler's protocol with one truth per scene gets another name, because its figures are not the benchmark's."""
    for asked, what, option in ((lpips, "LPIPS", "--lpips"), (aligned, "Aligned PSNR", "--aligned")):
        if asked and protocol not in PROTOCOLS:
            raise InputError(f"{what} is for pairs under {', '.join(PROTOCOLS)}; omit {option} with the protocol {protocol}.")
    if protocol.startswith("koehler"):
        if (single := has_single_truths(entries)) is False and protocol == "koehler_single":
            raise InputError("The protocol koehler_single is for one truth per scene; these are trajectories: use --protocol=koehler.")
        protocol, notes = ("koehler_single" if single else "koehler"), [*notes, *koehler_notes(entries)]
        return Benchmark(entries, make_koehler_scorer(single_truth=single), protocol, description, notes)
    if protocol == "realblur":
        return Benchmark(entries, make_realblur_scorer(), protocol, description, notes)
    if protocol == "noreference":
        return Benchmark(entries, make_noreference_scorer(), protocol, description, notes)
    side = min(min(size) for size in scored_sizes(entries, protocol=protocol))
    return Benchmark(entries, make_paired_scorer(smallest_side=side, lpips=lpips, aligned=aligned), protocol, description, notes)
