"""Photographs for resident data: a user's folder, or those of installed packages (the demo)."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, UInt8

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.listing import IMAGE_SUFFIXES, list_images
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.synthesis.blur import synthesise
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.objects import Shapes
from drsn_jax.system.errors import InputError

# Held out by subject, chosen before any training. The stereo pair of the motorcycle stays on the training side.
DEMO_TRAINING = (
    *("skimage:astronaut.png", "skimage:rocket.jpg", "skimage:motorcycle_left.png", "skimage:motorcycle_right.png"),
    *("skimage:camera.png", "sklearn:flower.jpg"),
)
DEMO_HELD_OUT = ("skimage:chelsea.png", "skimage:coffee.png", "sklearn:china.jpg")

Sample = tuple[str, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]  # name, blurred, sharp
Photographs = dict[str, UInt8[np.ndarray, "_ _ 3"]]  # of any sizes
T = TypeVar("T")


def read_demo_photos(names: Sequence[str]) -> Photographs:
    """Read the photographs of scikit-image and scikit-learn, uint8 RGB. Raises InputError if a package is missing."""
    try:
        import skimage
        import sklearn
    except ImportError as error:
        raise InputError(
            f"The demo's photographs come with scikit-image and scikit-learn ({error}); pip install 'drsn-jax[demo]'."
        ) from error
    folders = {
        "skimage": Path(skimage.__file__).parent / "data",
        "sklearn": Path(sklearn.__file__).parent / "datasets" / "images",
    }
    return {name.split(":")[1].split(".")[0]: read_rgb(folders[name.split(":")[0]] / name.split(":")[1]) for name in names}


def find_photos(folder: Path) -> dict[str, Path]:
    """Find every image below a folder (`list_images`), by relative name in sorted order. Raises InputError without folder or image."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give a folder of photographs (--config.train_dir=DIR).")
    paths = list_images(folder)
    if not paths:
        raise InputError(f"{folder} holds no photographs; images end in one of {', '.join(IMAGE_SUFFIXES)}.")
    return {str(path.relative_to(folder)): path for path in paths}


def hold_out(found: Mapping[str, T], *, every: int) -> tuple[dict[str, T], dict[str, T]]:
    """Split off every n-th photograph by sorted name for validation. Raises InputError if nothing remains for training."""
    held = {name: found[name] for i, name in enumerate(found) if i % every == 0}
    training = {name: found[name] for name in found if name not in held}
    if not training:
        raise InputError(f"{len(found)} photographs are too few to hold out every {every}th; give more, or an --config.eval_dir of pairs.")
    return training, held


def read_photos(found: Mapping[str, Path], *, bad_images: BadImages) -> Photographs:
    """Read photographs, uint8 RGB, without those that `bad_images` skips. Raises InputError for an unreadable one."""
    read = {name: bad_images.read(str(path), partial(read_rgb, path)) for name, path in found.items()}
    return {name: image for name, image in read.items() if image is not None}


def blur_photographs(
    photographs: Photographs, *, recipe: BlurRecipe, copies: int, key: PRNGKeyArray, shapes: Shapes | None = None
) -> list[Sample]:
    """Blur whole photographs without noise, `copies` times each: (name, blurred, sharp), the same for the same key.

    Objects have one of the `shapes`, or are ellipses. The lengths are spaced evenly over the recipe's range instead of drawn, so that a
    few images cover all of it.
    """
    recipe = recipe._replace(noise_variance=(0.0, 0.0))
    margins = ((recipe.margin, recipe.margin), (recipe.margin, recipe.margin), (0, 0))
    number = len(photographs) * copies
    blur = jax.jit(synthesise, static_argnums=2)
    samples = []
    for i in range(number):
        name, image = list(photographs.items())[i % len(photographs)]
        length = recipe.length[0] + (recipe.length[1] - recipe.length[0]) * (i + 0.5) / number
        padded = jnp.asarray(np.pad(image, margins, mode="reflect"))
        blurred, _ = blur(jax.random.fold_in(key, i), padded, recipe, jnp.float32(length), shapes)
        samples.append((f"{Path(name).stem}-{i + 1:02d}-{length:.0f}px", np.rint(np.asarray(blurred) * 255).astype(np.uint8), image))
    return samples
