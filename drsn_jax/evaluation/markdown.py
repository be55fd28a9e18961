"""A report as Markdown."""

from urllib.parse import quote

from drsn_jax.evaluation.document import Bullets, Document, Pictures, Table


def as_markdown(document: Document) -> str:
    """The document, with pictures as links to their files."""
    lines = [f"# {document.title}", ""]
    for block in document.blocks:
        if isinstance(block, Table):
            lines += [f"### {block.title}", ""] if block.title else []
            lines += [*_table(block), ""]
        elif isinstance(block, Bullets):
            lines += [f"## {block.title}", ""] if block.title else []
            lines += [*(f"- {name}: {_value(value, block)}" for name, value in block.items), ""]
        elif isinstance(block, Pictures):
            lines += [f"## {block.title}", "", *(f"![{path}]({quote(path)})\n" for path in block.paths)]
        else:
            lines += [block, ""]
    return "\n".join(lines).rstrip() + "\n"


def _value(value: str, block: Bullets) -> str:
    if block.links:
        return f"[{value}]({quote(value)})"
    return f"`{value}`" if block.code else value


def _table(table: Table) -> list[str]:
    alignment = ["---" if i < table.text_columns else "---:" for i in range(len(table.header))]
    return [_row(table.header), _row(alignment), *map(_row, table.rows)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
