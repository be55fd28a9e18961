"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from drsn_jax.evaluation.document import describe_counts, make_headline
from drsn_jax.evaluation.scorers import Metric


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows)
    return ["  ".join(cells) for cells in aligned]


def format_table(summary: Mapping[str, Any]) -> str:
    """A small table: input, restored, gain and other methods by metric, under the protocol and the noise."""
    table = make_headline(summary, [Metric(**metric) for metric in summary["metrics"]])
    title = f"{summary['protocol']} protocol, noise variance {summary['noise_variance']:g}"
    rows = align_columns([["", *table.header[1:]], *table.rows])
    return "\n".join([title, *rows, describe_counts(summary), *summary.get("notes", ())])
