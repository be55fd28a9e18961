"""A choice of photographs or frames to train on: `python tools/choose_photos.py SOURCE [SOURCE ...] [options]`.

    python tools/choose_photos.py PHOTOS --sheet=sheet.png                          # look at them: sheet-01.png and so on, with names
    python tools/choose_photos.py PHOTOS --leave-out=LIST --copy=CHOSEN             # all but those of a list
    python tools/choose_photos.py CLIP --sharpest-of=12 --copy=CHOSEN --prefix=cow_ # of each twelve frames in a row the sharpest

A list holds one name a line, relative to its source. A # starts a comment. Files are copied unchanged.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from drsn_jax.data.images.listing import list_images
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.images.sharpness import measure_sharpness
from drsn_jax.system.errors import InputError
from drsn_jax.system.panels import save_png

TILE, LABEL, COLUMNS, ROWS = 240, 16, 8, 6  # pixels of a thumbnail and of the line below it; thumbnails of one sheet


def choose(sources: Sequence[Path], *, lists: Iterable[Path] = (), sharpest_of: int = 1) -> list[Path]:
    """Choose the images below the sources that are in no list: of each `sharpest_of` neighbours in a source only the sharpest.

    Raises InputError for a source without images, a list that cannot be read, and names in it that are in no source.
    """
    unwanted = {name for path in lists for name in read_list(path)}
    chosen, named = [], set()
    for source in sources:
        if not source.is_dir() or not (images := list_images(source)):
            raise InputError(f"{source} holds no images; give a folder of photographs or frames.")
        names = {path: path.relative_to(source).as_posix() for path in images}
        named |= set(names.values())
        kept = [path for path in images if names[path] not in unwanted]
        groups = [kept[i : i + sharpest_of] for i in range(0, len(kept), sharpest_of)]
        chosen += kept if sharpest_of == 1 else [max(group, key=lambda path: measure_sharpness(read_rgb(path))) for group in groups]
    if missing := sorted(unwanted - named):
        raise InputError(f"{len(missing)} names of the lists are not there ({', '.join(missing[:3])}); are they of these folders?")
    return chosen


def read_list(path: Path) -> list[str]:
    """Read the names in a list. Raises InputError if it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of names, one a line ({error}).") from error
    return [name for line in lines if (name := line.partition("#")[0].strip())]


def copy(images: Iterable[Path], folder: Path, *, prefix: str = "") -> None:
    """Copy files into one folder. Raises InputError if it already has another file of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in images:
        target = folder / f"{prefix}{path.name}"
        if target.exists() and target.read_bytes() != path.read_bytes():
            raise InputError(f"{target} is there already and is another image; give a --prefix, or another --copy.")
        shutil.copyfile(path, target)


def draw_sheets(images: Sequence[Path], path: Path) -> list[Path]:
    """Draw thumbnails with the names below them, 48 a sheet, into PATH-01.png and so on. Returns these files."""
    number, font, written = COLUMNS * ROWS, ImageFont.load_default(11), []
    for first in range(0, len(images), number):
        sheet = Image.new("RGB", (COLUMNS * TILE, ROWS * (TILE + LABEL)))
        for i, image in enumerate(images[first : first + number]):
            left, top = i % COLUMNS * TILE, i // COLUMNS * (TILE + LABEL)
            small = ImageOps.contain(Image.fromarray(read_rgb(image)), (TILE - 2, TILE - 2), Image.Resampling.LANCZOS)
            sheet.paste(small, (left, top))
            ImageDraw.Draw(sheet).text((left + 2, top + TILE), image.name, "white", font)
        written.append(path.with_name(f"{path.stem}-{first // number + 1:02d}.png"))
        save_png(np.asarray(sheet), written[-1])
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE")
    parser.add_argument("--leave-out", nargs="*", type=Path, default=[], metavar="LIST", help="files with the names to leave out")
    parser.add_argument("--sharpest-of", type=int, default=1, metavar="N", help="of each N in a row the sharpest alone")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw thumbnails of what is chosen")
    parser.add_argument("--copy", type=Path, metavar="DIR", help="copy what is chosen")
    parser.add_argument("--prefix", default="", help="of the copies' names")
    options = parser.parse_args(arguments)
    try:
        if options.sharpest_of < 1:
            raise InputError(f"--sharpest-of={options.sharpest_of} is no number of frames; use 1 or more.")
        images = choose(options.sources, lists=options.leave_out, sharpest_of=options.sharpest_of)
        if options.copy:
            copy(images, options.copy, prefix=options.prefix)
        sheets = draw_sheets(images, options.sheet) if options.sheet else []
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{line}\n" for line in (f"{len(images)} images", *sheets)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
