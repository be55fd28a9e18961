"""A report as Markdown, as a table for the terminal, and as one HTML file with style, sorting and smaller pictures."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from drsn_jax.evaluation.metrics.scorers import Metric
from drsn_jax.evaluation.report.document import Bullets, Document, Pictures, Table, describe_counts, make_headline
from drsn_jax.system.paths import AnyPath

_WIDTH = 1800  # maximum width of an embedded picture in pixels: a panel of three full frames has a few hundred kB


def as_html(document: Document, *, folder: AnyPath) -> str:
    """Format as HTML; pictures below `folder` are embedded at up to 1800 pixels of width, each a link to the full one."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["code"] = _mark_code
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["bullets"] = lambda block: isinstance(block, Bullets)
    template = environment.from_string(Path(__file__).with_name("report.html.jinja").read_text())
    return template.render(document=document, embed=partial(_embed, folder))


def _mark_code(text: str) -> Markup:
    """Escape the text, and mark parts between backquotes as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _embed(folder: AnyPath, path: str) -> dict[str, Any]:
    """Return width, height and base64 JPEG of a picture."""
    with Image.open(io.BytesIO((folder / path).read_bytes())) as picture:
        image = picture.convert("RGB")
    image.thumbnail((_WIDTH, 10 * _WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=90)
    return {"width": image.width, "height": image.height, "data": base64.b64encode(buffer.getvalue()).decode()}


def as_markdown(document: Document) -> str:
    """Format as Markdown, with pictures as links to their files."""
    lines = [f"# {document.title}", ""]
    for block in document.blocks:
        if isinstance(block, Table):
            lines += [f"### {block.title}", ""] if block.title else []
            lines += [*_markdown_table(block), ""]
        elif isinstance(block, Bullets):
            lines += [f"## {block.title}", ""] if block.title else []
            lines += [*(f"- {name}: {_markdown_value(value, block)}" for name, value in block.items), ""]
        elif isinstance(block, Pictures):
            lines += [f"## {block.title}", "", *(f"![{path}]({quote(path)})\n" for path in block.paths)]
        else:
            lines += [block, ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_value(value: str, block: Bullets) -> str:
    if block.links:
        return f"[{value}]({quote(value)})"
    return f"`{value}`" if block.code else value


def _markdown_table(table: Table) -> list[str]:
    alignment = ["---" if i < table.text_columns else "---:" for i in range(len(table.header))]
    return [_markdown_row(table.header), _markdown_row(alignment), *map(_markdown_row, table.rows)]


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format a line for each row: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))] for row in rows)
    return ["  ".join(cells) for cells in aligned]


def format_table(summary: Mapping[str, Any]) -> str:
    """Format a small table: input, restored, gain and other methods by metric, under the protocol and the noise."""
    table = make_headline(summary, [Metric(**metric) for metric in summary["metrics"]])
    title = f"{summary['protocol']} protocol, noise variance {summary['noise_variance']:g}"
    rows = align_columns([["", *table.header[1:]], *table.rows])
    return "\n".join([title, *rows, describe_counts(summary), *summary.get("notes", ())])
