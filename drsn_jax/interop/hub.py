"""Upload of models to the Hugging Face Hub with a model card in its format."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drsn_jax.system.errors import InputError
from drsn_jax.weights.compact import is_compact, read_compact
from drsn_jax.weights.hub import NAME, PATTERNS, SCHEME, explain_refusals, import_hub
from drsn_jax.weights.saved import compact_model

_CARD = """{header}
# {title}

A generator of DRSN-GAN for blind motion deblurring: {parameters:,} parameters, step {step}.

    pip install 'drsn-jax[hub]'
    drsn-jax restore --model=hf://{repo} photo.jpg

Its configuration is in compact.json. This card does not yet describe the training data and the results: please add them.
"""


def push_model(model: Path, repo: str, *, private: bool = False, licence: str | None = None, message: str | None = None) -> str:
    """Upload a model (a workdir, a checkpoint or a compact model) to a repository of the Hub, made if missing. Returns its address.

    The address contains the commit. A README.md beside a compact model becomes the card; otherwise a short card is generated. Raises
    InputError without a login or write access, and as `saved.compact_model`.
    """
    if re.fullmatch(NAME, repo) is None:
        raise InputError(f"--repo={repo} is not the name of a repository; write owner/name.")
    if model.is_file():
        raise InputError(f"{model} is a file; give the workdir or a checkpoint of a training, or a compact model.")
    hub = import_hub()
    with tempfile.TemporaryDirectory() as temporary:
        folder = model
        if not is_compact(model):
            folder = Path(temporary) / "model"
            compact_model(model, folder, training=False)
        operations = [hub.CommitOperationAdd(path.name, str(path)) for pattern in PATTERNS[:2] for path in sorted(folder.glob(pattern))]
        operations.append(hub.CommitOperationAdd("README.md", make_card(folder, repo=repo, licence=licence).encode()))
        with explain_refusals(hub, SCHEME + repo):
            api = hub.HfApi(library_name="drsn-jax")
            api.create_repo(repo, private=private or None, exist_ok=True)
            commit = api.create_commit(repo, operations, commit_message=message or "A model of drsn-jax")
    return f"{SCHEME}{repo}@{commit.oid}"


def make_card(folder: Path, *, repo: str, licence: str | None = None) -> str:
    """Return the README.md of a compact model with the Hub's header added; without a README.md, a short card."""
    hub = import_hub()
    tags = ["jax", "flax", "deblurring", "image-restoration"]
    data = hub.ModelCardData(library_name="drsn-jax", license=licence, pipeline_tag="image-to-image", tags=tags)
    header = f"---\n{data.to_yaml()}\n---\n"
    card = folder / "README.md"
    if card.is_file():
        text = card.read_text()
        return text if text.startswith("---\n") else f"{header}\n{text}"
    compact = read_compact(folder)
    parameters = sum(leaf.size for leaf in _leaves(compact.fields["ema_params"]))
    return _CARD.format(header=header, title=repo.partition("/")[2], parameters=parameters, step=compact.step, repo=repo)


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for branch in tree.values():
            yield from _leaves(branch)
    else:
        yield tree
