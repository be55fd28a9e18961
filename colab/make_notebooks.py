"""Write the .ipynb beside each notebook's source: `python colab/make_notebooks.py`. A test keeps them equal."""

from pathlib import Path

import jupytext
import nbformat

SOURCES = sorted(path for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))


def make_notebook(source: Path) -> str:
    """Make the notebook of a source in jupytext's percent format, as JSON, without outputs."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"  # the default differs each time
    notebook.metadata.pop("jupytext", None)  # its version of jupytext
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    for source in SOURCES:
        source.with_suffix(".ipynb").write_text(make_notebook(source))
