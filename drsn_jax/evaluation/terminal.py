"""Tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from drsn_jax.evaluation.document import describe_counts, make_headline
from drsn_jax.evaluation.scorers import Metric


def format_table(summary: Mapping[str, Any]) -> str:
    """A small table: input, restored, gain and other methods by metric, under the protocol and the noise."""
    table = make_headline(summary, [Metric(**metric) for metric in summary["metrics"]])
    widths = [max(len(row[i]) for row in (table.header, *table.rows)) for i in range(len(table.header))]
    lines = [f"{summary['protocol']} protocol, noise variance {summary['noise_variance']:g}"]
    for row in (["", *table.header[1:]], *table.rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join([*lines, describe_counts(summary)])
