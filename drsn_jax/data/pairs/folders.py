"""Folders of images as a list of pairs, each a blurred image and its sharp one. No TensorFlow, no JAX."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.listing import IMAGE_SUFFIXES, is_hidden, name_images
from drsn_jax.data.images.opening import ImageSource
from drsn_jax.data.images.rgb import check_same_size, image_size, read_rgb
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import local_path

__all__ = ["Pair", "check_pairs", "find_pairs", "image_size", "match_folders", "read_rgb", "spread"]

_SHARP = "sharp"
_OTHER_LAYOUTS = (("input", "target"), ("A", "B"))
_SPLITS = ("train", "test", "val", "valid", "validation")
_EXPECTED = "<scene>/{blur,sharp}/*.png (GoPro's, scenes at most two levels down), or blur/ + sharp/, input/ + target/, A/ + B/"


@dataclass(frozen=True)
class Pair:
    """One blurred image and the sharp one of the same view; `name` is their common relative path, without suffix."""

    name: str
    blurred: ImageSource
    sharp: ImageSource


def find_pairs(root: str | Path, *, blur_folder: str = "blur") -> list[Pair]:
    """Find the pairs below `root`, sorted by name.

    Layouts: GoPro's `<scene>/{blur,blur_gamma,sharp}/NNNNNN.png`, scenes one or two levels below root; `blur/` + `sharp/`,
    `input/` + `target/` or `A/` + `B/` directly in root. Within a folder images are found at any depth and matched by relative
    name; suffixes may differ. `blur_folder` selects GoPro's `blur` (linear) or `blur_gamma` (with the camera's curve).
    Raises `InputError` if root is missing, empty, a file, contains several splits or no known layout, or if names do not match.
    """
    root = _folder(root)
    blurred: dict[str, Path] = {}
    sharp: dict[str, Path] = {}
    for scene, blurred_folder, sharp_folder in _scenes(root, blur_folder):
        prefix = "" if scene == root else f"{scene.relative_to(root).as_posix()}/"
        blurred |= {prefix + name: path for name, path in name_images(blurred_folder).items()}
        sharp |= {prefix + name: path for name, path in name_images(sharp_folder).items()}
    return _match(blurred, sharp, f"the blurred images of {root}", f"the sharp images of {root}")


def match_folders(blurred_folder: str | Path, sharp_folder: str | Path, *, blur_folder: str = "blur") -> list[Pair]:
    """Pair the images of two folders, at any depth, by relative name without suffix; sorted by name.

    In a folder with GoPro's scenes only its own side is used. Below `blurred_folder` these are the images inside folders called
    `blur_folder`, if there are any. Below `sharp_folder` they are the images inside `sharp`. The names of these folders are removed before
    matching. So `<root> <root>`, `<root>/blur <root>/sharp`, and restored scenes against GoPro's root all work; the same root twice equals
    `find_pairs`. Raises `InputError` as `find_pairs` does.
    """
    blurred_folder, sharp_folder = _folder(blurred_folder), _folder(sharp_folder)
    if blurred_folder.samefile(sharp_folder):
        return find_pairs(blurred_folder, blur_folder=blur_folder)
    blurred, sharp = _own_side(name_images(blurred_folder), blur_folder), _own_side(name_images(sharp_folder), _SHARP)
    return _match(blurred, sharp, str(blurred_folder), str(sharp_folder))


def check_pairs(pairs: Sequence[Pair], *, min_size: int | None = None, bad_images: BadImages | None = None) -> list[Pair]:
    """Check the headers of all images (a few seconds for GoPro's 2,103 pairs) without decoding pixels. Returns the pairs.

    Unreadable pairs that `bad_images` skips are left out. Raises `InputError` for a file that cannot be opened, that differs in size from
    its partner, or that has a height or width below `min_size` pixels. It names the first such file in the order of `pairs`. Raises it also
    if there is no pair at all.
    """
    if not pairs:
        raise InputError("No pairs of images were given; at least one is needed")
    bad_images = bad_images or BadImages(len(pairs), what="pairs", skip=False)

    def sizes_of(pair: Pair) -> tuple[tuple[int, int], tuple[int, int]] | None:
        return bad_images.read(str(pair.blurred), lambda: (image_size(pair.blurred), image_size(pair.sharp)))

    readable = []
    with ThreadPoolExecutor(8) as pool:
        opened = ((pair, *sizes) for pair, sizes in zip(pairs, pool.map(sizes_of, pairs), strict=True) if sizes)
        for pair, blurred, sharp in opened:
            readable.append(pair)
            check_same_size((pair.blurred, pair.sharp), (blurred, sharp))
            if min_size is not None and min(blurred) < min_size:
                raise InputError(
                    f"{pair.blurred} is {_shown(blurred)} (height x width), at least {min_size}x{min_size} is needed; "
                    "use smaller crops (--config.crop_size) or remove the pair"
                )
    return readable


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Select `count` items evenly spaced, or all if there are fewer. The first items would often show a single scene."""
    indices = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[int(index)] for index in indices]


def _folder(path: str | Path) -> Path:
    path = local_path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder with pairs of images: {_EXPECTED}")
    if not path.is_dir():
        raise InputError(f"{path} is a file; give the folder that holds the images: {_EXPECTED}")
    return path


def _scenes(root: Path, blur_folder: str) -> list[tuple[Path, Path, Path]]:
    """Return (scene, folder of blurred images, folder of sharp images) for each scene; root itself may be the only scene."""
    if blur_folder == _SHARP:
        raise InputError(f"blur_folder={blur_folder!r} names the folder of sharp images; use 'blur' or 'blur_gamma'")
    for blurred, sharp in _OTHER_LAYOUTS:
        if {blurred, sharp} <= _subfolders(root).keys() and blur_folder == "blur":
            return [(root, root / blurred, root / sharp)]
    scenes = [root] if _is_scene(root, blur_folder) else _scenes_below(root, blur_folder)
    for scene in scenes:
        there = _subfolders(scene).keys()
        missing = {blur_folder, _SHARP} - there
        if missing:
            raise InputError(
                f"{scene} has no folder {' or '.join(sorted(missing))}; it has: {', '.join(there)}; "
                f"choose with blur_folder (given: {blur_folder!r}) or complete the scene"
            )
    if not scenes:
        there = ", ".join(list(_subfolders(root))[:6]) or "no folder"
        raise InputError(f"{root} is not laid out as pairs (it holds: {there}; blur_folder={blur_folder!r}); expected {_EXPECTED}")
    return [(scene, scene / blur_folder, scene / _SHARP) for scene in scenes]


def _scenes_below(root: Path, blur_folder: str) -> list[Path]:
    children = _subfolders(root)
    splits = [name for name in _SPLITS if name in children]
    if len(splits) > 1:
        choices = " or ".join(str(root / name) for name in splits)
        raise InputError(f"{root} holds {' and '.join(splits)}, which must not be mixed; choose one: {choices}")
    scenes = []
    for child in children.values():
        nested = [] if _is_scene(child, blur_folder) else list(_subfolders(child).values())
        scenes += [folder for folder in (child, *nested) if _is_scene(folder, blur_folder)]
    return scenes


def _is_scene(folder: Path, blur_folder: str) -> bool:
    """Check for a scene. One with a missing side counts too, so that the missing side is reported."""
    return bool({blur_folder, _SHARP} & _subfolders(folder).keys())


def _subfolders(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path.name)}


def _own_side(images: dict[str, Path], side: str) -> dict[str, Path]:
    """Return the images inside folders called `side`, with that folder's name removed; for any other tree all images."""
    inside = {name: path for name, path in images.items() if side in name.split("/")[:-1]}
    return {"/".join(part for part in name.split("/") if part != side): path for name, path in inside.items()} or images


def _match(blurred: dict[str, Path], sharp: dict[str, Path], blurred_where: str, sharp_where: str) -> list[Pair]:
    for images, where in ((blurred, blurred_where), (sharp, sharp_where)):
        if not images:
            raise InputError(f"No image found among {where}; known suffixes: {', '.join(IMAGE_SUFFIXES)}")
    if blurred.keys() != sharp.keys():
        raise InputError(
            f"{_first_three(blurred.keys() - sharp.keys())} of {blurred_where} lack a sharp image, "
            f"{_first_three(sharp.keys() - blurred.keys())} of {sharp_where} lack a blurred one. "
            "Give both images of a pair the same name (suffixes may differ)."
        )
    return [Pair(name, blurred[name], sharp[name]) for name in sorted(blurred)]


def _first_three(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} ({shown})" if names else "0"


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
