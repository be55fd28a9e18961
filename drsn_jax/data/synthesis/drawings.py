"""Sheets of rendered text and line drawings, to be blurred like photographs. Letters and signs are rare in photographs of nature."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from drsn_jax.system.errors import InputError

SHEETS, SIDE = 64, 512  # number of sheets, and the side of each in pixels: 17 megapixels
_FINER = 2  # drawn at this scale and averaged, so that edges are as in a camera's pixels
_LETTERS, _FREQUENT = "etaoinshrdlcumwfgypbvkjxqz", np.array([12.7, 9.1, 8.2, 7.5, 7.0, 6.7, 6.3, 6.1, 6.0, 4.3, 4.0, 2.8, 2.8, 2.4])
_WEIGHTS = np.concatenate([_FREQUENT, np.array([2.4, 2.2, 2.0, 2.0, 1.9, 1.5, 1.0, 0.8, 0.5, 0.5, 0.5, 0.5])])
_LEAST_CONTRAST = 70.0  # grey levels between the drawing and its ground

Colour = tuple[int, int, int]


def list_fonts(folder: Path) -> list[Path]:
    """List the TrueType and OpenType fonts directly in a folder, sorted. Raises InputError if there are none, or one cannot be opened."""
    fonts = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".ttf", ".otf")) if folder.is_dir() else []
    if not fonts:
        raise InputError(f"{folder} contains no fonts; give a folder of .ttf or .otf files, or omit --config.text_fonts for Pillow's own.")
    for font in fonts:
        try:
            ImageFont.truetype(font, 12)
        except OSError as error:
            raise InputError(f"{font} cannot be opened as a font ({error}); remove it from the folder.") from error
    return fonts


def draw_sheets(*, number: int = SHEETS, side: int = SIDE, seed: int = 0, fonts: Sequence[Path] = ()) -> list[UInt8[np.ndarray, "s s 3"]]:
    """Draw sheets of text and lines, uint8 RGB. Each sheet depends only on the seed and its position, not on `number`.

    Words, colours, sizes, angles and places are random. `fonts` are files; without any, Pillow's own font is used.
    """
    return [_draw_sheet(np.random.default_rng((seed, i)), side, fonts) for i in range(number)]


def _draw_sheet(rng: np.random.Generator, side: int, fonts: Sequence[Path]) -> UInt8[np.ndarray, "s s 3"]:
    """Draw one to nine panels, each with its own ground."""
    sheet = Image.new("RGB", (side * _FINER, side * _FINER))
    rows, columns = map(int, rng.integers(1, 4, 2))
    for top, bottom in _parts(side, rows):
        for left, right in _parts(side, columns):
            sheet.paste(_draw_panel(rng, (right - left, bottom - top), fonts), (left * _FINER, top * _FINER))
    return np.asarray(sheet.reduce(_FINER))


def _parts(side: int, number: int) -> list[tuple[int, int]]:
    edges = [side * i // number for i in range(number + 1)]
    return list(pairwise(edges))


def _draw_panel(rng: np.random.Generator, size: tuple[int, int], fonts: Sequence[Path]) -> Image.Image:
    """Draw text, lines or both on a plain or shaded ground, rotated in half of all draws. `size` is (width, height) on the sheet."""
    width, height = (extent * _FINER for extent in size)
    angle = 0.0
    if rng.random() < 0.5:
        angle = rng.normal(0.0, 6.0) if rng.random() < 0.7 else rng.uniform(-90.0, 90.0)
    reach = math.ceil(math.hypot(width, height))  # covers the panel at any angle
    ground = _draw_colour(rng)
    panel = Image.new("RGB", (reach, reach) if angle else (width, height), ground)
    if rng.random() < 0.4:
        panel = _shade(rng, panel, ground)
    kind = rng.random()
    if kind > 0.35:
        _draw_lines(rng, panel, ground)
    if kind < 0.75:
        _write(rng, panel, ground, fonts)
    if not angle:
        return panel
    left, top = (reach - width) // 2, (reach - height) // 2
    return panel.rotate(angle, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))


def _draw_colour(rng: np.random.Generator) -> Colour:
    """Draw a colour: grey in a third of all draws, near black or white in another third."""
    kind = rng.random()
    if kind < 0.33:
        grey = int(rng.integers(256))
        return grey, grey, grey
    if kind < 0.66:
        tint = rng.integers(0, 40, 3)
        values = tint if rng.random() < 0.4 else 255 - tint
    else:
        values = rng.integers(0, 256, 3)
    return int(values[0]), int(values[1]), int(values[2])


def _ink(rng: np.random.Generator, ground: Colour) -> Colour:
    """Draw a colour with enough contrast to the ground."""
    while True:
        colour = _draw_colour(rng)
        if abs(float(np.dot(np.subtract(colour, ground), (0.299, 0.587, 0.114)))) >= _LEAST_CONTRAST:
            return colour


def _shade(rng: np.random.Generator, panel: Image.Image, ground: Colour) -> Image.Image:
    """Add a gradient of up to 25 grey levels to the ground."""
    across = rng.random() < 0.5
    ramp = np.linspace(0.0, rng.uniform(-25.0, 25.0), panel.width if across else panel.height)
    line = np.rint(np.clip(np.array(ground, float) + ramp[:, None], 0, 255)).astype(np.uint8)
    return Image.fromarray(line[None] if across else line[:, None]).resize(panel.size)


def _write(rng: np.random.Generator, panel: Image.Image, ground: Colour, fonts: Sequence[Path]) -> None:
    """Write lines of words from top to bottom, in blocks that each have one size, font and colour."""
    draw, top = ImageDraw.Draw(panel), 0.0
    while top < panel.height:
        size = math.exp(rng.uniform(math.log(9.0), math.log(80.0))) * _FINER
        font = ImageFont.truetype(fonts[int(rng.integers(len(fonts)))], size) if fonts else ImageFont.load_default(size)
        colour, bold = _ink(rng, ground), int(rng.random() < 0.25) * max(1, round(size / 30))
        capitals, leading = rng.random() < 0.2, rng.uniform(1.0, 1.5)
        for _ in range(rng.integers(1, 6)):
            words = " ".join(_draw_word(rng) for _ in range(max(1, math.ceil(panel.width / (2.5 * size)))))
            draw.text((-rng.uniform(0.0, size), top), words.upper() if capitals else words, colour, font, stroke_width=bold)
            top += leading * size
        top += rng.uniform(0.0, size)


def _draw_word(rng: np.random.Generator) -> str:
    """Draw letters with the frequencies of English, or a number; some with a capital or a punctuation mark."""
    length = int(rng.integers(1, 10))
    if rng.random() < 0.12:
        return "".join(map(str, rng.integers(0, 10, length % 5 + 1)))
    word = "".join(rng.choice(list(_LETTERS), length, p=_WEIGHTS / _WEIGHTS.sum()))
    word = word.capitalize() if rng.random() < 0.2 else word
    return word + (str(rng.choice(list(",.;:!?-%&)/"))) if rng.random() < 0.15 else "")


def _draw_lines(rng: np.random.Generator, panel: Image.Image, ground: Colour) -> None:
    """Draw strokes, outlines, filled figures and hatchings, one to eight pixels wide, in a few colours."""
    draw, reach = ImageDraw.Draw(panel), max(panel.size)
    colours = [_ink(rng, ground) for _ in range(rng.integers(1, 4))]
    for _ in range(rng.integers(4, 40)):
        colour, width = colours[rng.integers(len(colours))], max(1, round(float(rng.uniform(1.0, 5.0) ** 1.3) * _FINER))
        corner = rng.uniform(-0.1, 1.0, 2) * reach
        box = (*corner, *(corner + rng.uniform(0.03, 0.4, 2) * reach))
        kind = rng.integers(6)
        if kind == 0:
            draw.line([tuple(point) for point in rng.uniform(0, reach, (int(rng.integers(2, 6)), 2))], colour, width, joint="curve")
        elif kind == 1:
            draw.rectangle(box, colour if rng.random() < 0.3 else None, colour, width)
        elif kind == 2:
            draw.ellipse(box, colour if rng.random() < 0.3 else None, colour, width)
        elif kind == 3:
            draw.arc(box, rng.uniform(0, 360), rng.uniform(0, 360), colour, width)
        elif kind == 4:
            draw.polygon(
                [tuple(corner + point) for point in rng.uniform(0, 0.3 * reach, (int(rng.integers(3, 6)), 2))], None, colour, width
            )
        else:
            gap = width * rng.uniform(1.5, 5.0)
            for at in np.arange(box[0], box[2], gap):
                draw.line([(at, box[1]), (at, box[3])], colour, width)
