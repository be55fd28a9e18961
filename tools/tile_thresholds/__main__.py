"""Compares sources of the thresholds of tiles: `python tools/tile_thresholds --pairs=DIR --output=FILE`. Prints a Markdown table.

Every pair is restored whole, and in tiles with thresholds from each tile, from the whole image, from the image at half and quarter size,
and from the mean over the tiles. FILE gets a line of JSON for each. Several runs may write into one file; the table is of all its lines.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # a checkout that is not installed
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from jaxtyping import UInt8

from drsn_jax.data.pairs.folders import find_pairs, spread
from drsn_jax.evaluation.scoring.entries import paired_entries, read_case
from drsn_jax.restoration.core.tiling import check_tile, to_uint8
from drsn_jax.system.panels import save_png
from drsn_jax.system.progress import Progress
from drsn_jax.weights.model import load_model
from drsn_jax.weights.shipped import find_model
from study import print_table
from tile_thresholds.figures import compare, deviations, measure_seams, score
from tile_thresholds.passes import OWN, Study, make_passes, restore_in_ways, restore_whole
from tile_thresholds.report import Row, append_row, format_table, read_rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print the table. Exit codes as in `drsn-jax`."""
    arguments = _parse(argv)

    def table_fn(progress: Progress) -> str:
        _run(arguments, progress)
        return format_table(read_rows(arguments.output))

    return print_table(table_fn, name="tile_thresholds")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tile_thresholds", description=__doc__, allow_abbrev=False)
    parser.add_argument("--pairs", type=Path, required=True, metavar="DIR", help="folder of pairs, as for training")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="file of the figures; lines are added")
    parser.add_argument("--model", default="small", help="a shipped model, a workdir or a checkpoint")
    parser.add_argument("--tiles", type=_numbers, default=[768], metavar="PIXELS,...", help="tile sizes (default 768)")
    parser.add_argument("--overlap", type=int, default=64, metavar="PIXELS", help="overlap of tiles (default 64)")
    parser.add_argument("--noise-variances", type=_floats, default=[0.0], metavar="V,...", help="noise on the scale [0, 1] (default 0)")
    parser.add_argument("--images", type=int, metavar="N", help="number of pairs, evenly spread (default all)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="folder for the restored images")
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace, progress: Progress) -> None:
    passes = make_passes(load_model(find_model(arguments.model)))
    for tile in arguments.tiles:
        check_tile(stride=passes.stride, tile=tile, overlap=arguments.overlap)
    entries = list(enumerate(paired_entries(find_pairs(arguments.pairs))))
    for index, entry in spread(entries, arguments.images) if arguments.images else entries:
        for noise in arguments.noise_variances:
            progress(f"{entry.name}, noise {noise:g}")
            case = read_case(entry, protocol="full", noise_variance=noise, index=index)
            whole = restore_whole(case.blurred, passes=passes)
            for tile in arguments.tiles:
                study = restore_in_ways(case.blurred, passes=passes, whole=whole, tile=tile, overlap=arguments.overlap)
                common = {"model": arguments.model, "tile": tile, "noise": noise, "name": entry.name}
                for row in _measure(study, case.truth, tile=tile, overlap=arguments.overlap):
                    append_row(arguments.output, common | row)
                if arguments.save:
                    _save(study, arguments.save, f"{arguments.model}_{entry.name}_{noise:g}_{tile}".replace("/", "_"))


def _measure(study: Study, sharp: UInt8[np.ndarray, "h w 3"], *, tile: int, overlap: int) -> Iterator[Row]:
    whole = {f"{name}_whole": value for name, value in score(study.whole, sharp).items()}
    for way, tiled in study.tiled.items():
        seams = measure_seams(tiled, study.whole, tile=tile, overlap=overlap)
        found = study.of_tiles if way == OWN else [study.of_ways[way]]
        spread_by_block = deviations(found, study.thresholds)
        yield {"way": way, **score(tiled, sharp), **whole, **compare(tiled, study.whole), **seams._asdict(), "deviations": spread_by_block}


def _save(study: Study, folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for way, restored in {"restored whole": study.whole, **study.tiled}.items():
        save_png(to_uint8(restored), folder / f"{stem}_{way.replace(' ', '_')}.png")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
