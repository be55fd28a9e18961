"""Comparison with other methods: their inputs are written to files, and their results read back. None of their code is needed."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from drsn_jax.data.images.listing import name_images
from drsn_jax.data.images.rgb import image_size
from drsn_jax.evaluation.scoring.entries import Entry, existing_folder, read_input, scored_sizes
from drsn_jax.system.errors import InputError
from drsn_jax.system.panels import save_png
from drsn_jax.system.progress import Countdown

_SIDES = ("blur", "blur_gamma", "input")  # folders in a copy of GoPro's layout that are not part of image names


def noise_folder(folder: Path, variance: float) -> Path:
    """Return the folder for inputs of that noise, and results on them: without noise the folder itself, else its noise_VARIANCE."""
    return folder / f"noise_{variance:g}" if variance else folder


def write_inputs(entries: Sequence[Entry], *, protocol: str, noise_variance: float, folder: Path) -> None:
    """Write each input as our model gets it: <folder>[/noise_VARIANCE]/<name>.png, uint8 at the protocol's size, with its noise.

    Existing files are kept, because they are the same. Raises InputError for unreadable files.
    """
    folder = noise_folder(folder, noise_variance)
    with Countdown(len(entries)) as countdown:
        for index, entry in enumerate(entries):
            path = folder / f"{entry.name}.png"
            if not path.exists():
                save_png(read_input(entry, protocol=protocol, noise_variance=noise_variance, index=index), path)
            countdown.advance(f"inputs, {entry.name[-60:]}")


def add_baselines(entries: Sequence[Entry], folders: Mapping[str, Path], *, protocol: str, noise_variance: float) -> list[Entry]:
    """Add other methods' results on the same inputs, one folder per method, matched by relative name without suffix.

    With noise they are read from the folder's noise_VARIANCE (see `write_inputs`): results on clean images must not be compared with
    results on noisy ones. Folders called blur, blur_gamma or input are not part of names. Raises InputError for a folder that is missing,
    lacks an image or has two of one name. Raises it also for results without the protocol's size.
    """
    if not folders:
        return list(entries)
    found = {method: _results(folder, noise_variance) for method, folder in folders.items()}
    for method, files in found.items():
        if missing := [entry.name for entry in entries if entry.name not in files]:
            raise InputError(
                f"{noise_folder(folders[method], noise_variance)} lacks {len(missing)} of {len(entries)} images ({', '.join(missing[:3])});"
                " give a method's results the names of the blurred images."
            )
    complete = [entry._replace(others={method: files[entry.name] for method, files in found.items()}) for entry in entries]
    _check_sizes(complete, protocol=protocol)
    return complete


def _results(folder: Path, noise_variance: float) -> dict[str, Path]:
    place = noise_folder(existing_folder(folder), noise_variance)
    if not place.is_dir():
        raise InputError(
            f"There is no folder {place}. Noise needs results on noisy inputs: write these with --write-inputs=DIR, restore them,"
            " and keep the names of their folders."
        )
    files: dict[str, Path] = {}
    for name, path in name_images(place).items():
        parts = name.split("/")
        if not noise_variance and parts[0].startswith("noise_"):
            continue  # results on noisy inputs, next to those on clean ones
        short = "/".join([part for part in parts[:-1] if part not in _SIDES] + parts[-1:])
        if short in files:
            raise InputError(f"{files[short]} and {path} are both the result for {short}; keep one of them in {place}.")
        files[short] = path
    return files


def _check_sizes(entries: Sequence[Entry], *, protocol: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        for entry, size in zip(entries, scored_sizes(entries, protocol=protocol), strict=True):
            for (method, file), other in zip(entry.others.items(), pool.map(image_size, entry.others.values()), strict=True):
                if other != size:
                    raise InputError(
                        f"{file} ({method}) is {other[0]}x{other[1]}; the protocol {protocol} scores {size[0]}x{size[1]} (height, width);"
                        " give results on the inputs of --write-inputs=DIR."
                    )
