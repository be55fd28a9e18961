"""The models inside the package, by name. Imports nothing heavy: the command line asks it before anything else."""

from pathlib import Path

SHIPPED = ("small", "base")
"""Names that `--model` and `restore_image` take in the place of a path; the first is the default."""


def find_model(model: str | Path) -> Path:
    """The folder of a shipped model by its name, of one on the Hub by its address (hf://owner/name), or the path itself.

    What lies at the path `small` is had by ./small. Raises InputError as `hub.download_model`.
    """
    if str(model).startswith("hf://"):
        from drsn_jax.weights.hub import download_model

        return download_model(str(model))
    if str(model) in SHIPPED:
        return Path(__file__).parent / str(model)
    return Path(model).expanduser()
