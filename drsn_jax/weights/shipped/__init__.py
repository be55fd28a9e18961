"""The models inside the package, by name. Imports nothing heavy: the command line asks it before anything else."""

from pathlib import Path

from drsn_jax.system.paths import AnyPath, any_path

SHIPPED = ("small", "base")
"""Names that `--model` and `restore_image` take in the place of a path; the first is the default."""


def find_model(model: str | AnyPath) -> AnyPath:
    """The folder of a shipped model by its name, of one on the Hub by its address (hf://owner/name), or the path itself.

    What lies at the path `small` is had by ./small; a path may be in a bucket. Raises InputError as `hub.download_model` and `any_path`.
    """
    if str(model).startswith("hf://"):
        from drsn_jax.weights.hub import download_model

        return download_model(str(model))
    if str(model) in SHIPPED:
        return Path(__file__).parent / str(model)
    return any_path(model)
