"""A report as one HTML file that needs nothing beside it: style, sorting and (smaller) pictures are inside."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from PIL import Image

from drsn_jax.evaluation.metrics.scorers import Metric
from drsn_jax.evaluation.report.document import Bullets, Document, Pictures, Table, describe_counts, make_headline
from drsn_jax.system.paths import AnyPath

_WIDTH = 1800  # pixels of an embedded picture at most: a panel of three full frames in a few hundred kB
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
code { background: #f1f3f5; padding: 0 .25em; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d9dde1; text-align: right; white-space: nowrap; }
th { background: #f1f3f5; } th.text, td.text { text-align: left; }
tr.gain td { font-weight: 600; } tr:hover td { background: #f8f9fa; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25B2"; } th[aria-sort=descending] button::after { content: " \\25BC"; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; border: 1px solid #d9dde1; }
figcaption { color: #555; font-size: .9rem; }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #16181b; } th, code { background: #24272b; } th, td { border-color: #3a3f45; }
  tr:hover td { background: #1f2226; } figcaption { color: #aaa; }
}
"""
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const header = button.parentElement, body = header.closest("table").tBodies[0], column = header.cellIndex;
  const down = header.getAttribute("aria-sort") !== "descending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const words = header.className === "text";
  const key = row => { const cell = row.cells[column].textContent, value = parseFloat(cell); return words || isNaN(value) ? cell : value; };
  const text = (a, b) => String(a).localeCompare(String(b), "en", { numeric: true });
  const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : text(a, b);
  [...body.rows].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b))).forEach(row => body.append(row));
};
"""


def as_html(document: Document, *, folder: AnyPath) -> str:
    """The document; its pictures are read below `folder` and embedded at up to 1800 pixels of width, each a link to the full one."""
    title = escape(document.title)
    body = "\n".join(_block(block, folder) for block in document.blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}\n<script>{_SCRIPT}</script></body></html>\n"
    )


def _block(block: Table | Bullets | Pictures | str, folder: AnyPath) -> str:
    if isinstance(block, Table):
        return _heading(block.title) + _table(block)
    if isinstance(block, Bullets):
        items = "".join(f"<li>{_text(name)}: {_value(value, block)}</li>" for name, value in block.items)
        return f"{_heading(block.title)}<ul>{items}</ul>"
    if isinstance(block, Pictures):
        return _heading(block.title) + "\n".join(_figure(path, folder) for path in block.paths)
    return f"<p>{_text(block)}</p>"


def _heading(title: str) -> str:
    return f"<h2>{escape(title)}</h2>" if title else ""


def _value(value: str, block: Bullets) -> str:
    if block.links:
        return f'<a href="{quote(value)}">{escape(value)}</a>'
    return f"<code>{escape(value)}</code>" if block.code else _text(value)


def _text(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _table(table: Table) -> str:
    def kind(column: int) -> str:
        return ' class="text"' if column < table.text_columns else ""

    def head(cell: str) -> str:
        return f"<button>{escape(cell)}</button>" if table.sortable else escape(cell)

    header = "".join(f"<th{kind(i)}>{head(cell)}</th>" for i, cell in enumerate(table.header))
    rows = "\n".join(
        f'<tr class="{escape(row[0].split(" ")[0])}">'
        + "".join(f"<td{kind(i)}>{escape(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in table.rows
    )
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _figure(path: str, folder: AnyPath) -> str:
    with Image.open(io.BytesIO((folder / path).read_bytes())) as picture:
        image = picture.convert("RGB")
    image.thumbnail((_WIDTH, 10 * _WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    name = escape(path)
    size = f'width="{image.width}" height="{image.height}"'
    return (
        f'<figure><a href="{quote(path)}"><img alt="{name}" {size} src="data:image/jpeg;base64,{data}"></a>'
        f"<figcaption>{name}</figcaption></figure>"
    )


def as_markdown(document: Document) -> str:
    """The document, with pictures as links to their files."""
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
