"""The models in the package, by name. Imports nothing heavy, because the command line uses it first."""

from pathlib import Path

from drsn_jax.system.paths import AnyPath, any_path

SHIPPED = ("small", "base")
"""Names that `--model` and `restore_image` accept instead of a path; the first is the default."""


def find_model(model: str | AnyPath) -> AnyPath:
    """Return the folder of a shipped model by its name, of one on the Hub by its address (hf://owner/name), or the path itself.

    Use ./small for a path called `small`; a path may be in a bucket. Raises InputError as `hub.download_model` and `any_path`.
    """
    if str(model).startswith("hf://"):
        from drsn_jax.weights.hub import download_model

        return download_model(str(model))
    if str(model) in SHIPPED:
        return Path(__file__).parent / str(model)
    return any_path(model)
