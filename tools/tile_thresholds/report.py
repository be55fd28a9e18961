"""Rows of the study on disk, one JSON object a line, and their mean figures as a Markdown table."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
_GROUP = ("model", "tile", "noise", "way")
_HEADER = (
    "model", "tile", "noise", "thresholds of", "images", "PSNR", "to whole, mean and extremes (dB)", "SSIM", "levels, mean / most",
    "RMS blended / elsewhere", "step blended / elsewhere", "largest step", "largest flat step", "thresholds differ by",
)  # fmt: skip


def append_row(path: Path, row: Row) -> None:
    """Add a row to the file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[Row]:
    """Read all rows of the file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def format_table(rows: Sequence[Row]) -> str:
    """Format the means over images: a line for each model, tile size, noise and source of the thresholds."""
    lines = [_HEADER, ["---"] * len(_HEADER), *_lines(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in _GROUP), []).append(row)
    for key, group in groups.items():
        gains = [row["psnr"] - row["psnr_whole"] for row in group]
        yield [
            *map(str, key),
            str(len(group)),
            f"{_mean(group, 'psnr'):.3f}",
            f"{np.mean(gains):+.4f} ({min(gains):+.3f} to {max(gains):+.3f})",
            f"{_mean(group, 'ssim'):.5f} ({_mean(group, 'ssim') - _mean(group, 'ssim_whole'):+.5f})",
            f"{_mean(group, 'mean_levels'):.3f} / {max(row['most_levels'] for row in group):.0f}",
            f"{_mean(group, 'rms_blended'):.3f} / {_mean(group, 'rms_elsewhere'):.3f}",
            f"{_mean(group, 'step'):.3f} / {_mean(group, 'step_elsewhere'):.3f}",
            *(f"{_most(group, key):.2f} / {_most(group, f'{key}_elsewhere'):.2f}" for key in ("largest_step", "largest_flat_step")),
            f"{np.mean([np.mean(list(row['deviations'].values())) for row in group]):.1%}",
        ]


def _mean(rows: Sequence[Row], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def _most(rows: Sequence[Row], key: str) -> float:
    """The largest value; NaN, of an image without such a place, does not count."""
    return max((row[key] for row in rows if not math.isnan(row[key])), default=math.nan)
