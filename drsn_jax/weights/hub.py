"""Models on the Hugging Face Hub: `hf://owner/name`, downloaded at one commit, and pushed with a card.

A model there is a compact model (see `weights.compact`) with a README.md. Nothing that is downloaded is executed: JSON, and arrays that are
read without pickle and checked by their SHA-256. huggingface_hub is imported when a function here is called.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drsn_jax.system.errors import InputError

SCHEME = "hf://"
_NAME = r"[\w.-]+/[\w.-]+"
_ADDRESS = re.compile(rf"{SCHEME}({_NAME})(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATTERNS = ["compact.json", "weights-*.npz", "README.md"]
_CARD = """{header}
# {title}

A generator of DRSN-GAN for blind motion deblurring: {parameters:,} parameters, step {step}.

    pip install 'drsn-jax[hub]'
    drsn-jax restore --model=hf://{repo} photo.jpg

Its configuration is in compact.json. Nothing was written here about the data that it was trained on, or what it does: please add it.
"""


def download_model(address: str) -> Path:
    """The folder of `hf://owner/name` or `hf://owner/name@REVISION`: a commit's hash, a branch or a tag; the main branch without one.

    Says on stderr which commit that is. What was downloaded once is found without a network afterwards, a hash without asking for it.
    Raises InputError where huggingface_hub is missing, and for what is not there, cannot be reached or is no model of drsn-jax.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(f"{address} is no model's address; write hf://owner/name, or hf://owner/name@REVISION.")
    repo, revision = match.groups()
    hub = _import_hub()
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    with _explain(hub, address):
        folder = _find_cached(hub, repo, revision) if pinned else None
        folder = folder or Path(hub.snapshot_download(repo, revision=revision, allow_patterns=_PATTERNS))
    if not (folder / "compact.json").is_file():
        raise InputError(f"{address} holds no model of drsn-jax (it has no compact.json); `drsn-jax push` makes one.")
    if not pinned:
        sys.stderr.write(f"{address} is at commit {folder.name}; --model={SCHEME}{repo}@{folder.name} is the same for ever.\n")
    return folder


def push_model(model: Path, repo: str, *, private: bool = False, licence: str | None = None, message: str | None = None) -> str:
    """Writes a model (a workdir, a checkpoint or a compact model) into a repository of the Hub, made if need be; returns its address.

    The address names the commit. A README.md beside a compact model goes along as its card; else one is made that says what is known.
    Raises InputError where nobody is logged in or writing is refused, and as `saved.compact_model`.
    """
    from drsn_jax.weights.compact import is_compact
    from drsn_jax.weights.saved import compact_model

    if re.fullmatch(_NAME, repo) is None:
        raise InputError(f"--repo={repo} is no repository's name; write owner/name.")
    if model.is_file():
        raise InputError(f"{model} is a file; give the workdir or a checkpoint of a training, or a compact model.")
    hub = _import_hub()
    with tempfile.TemporaryDirectory() as temporary:
        folder = model
        if not is_compact(model):
            folder = Path(temporary) / "model"
            compact_model(model, folder, training=False)
        operations = [hub.CommitOperationAdd(path.name, str(path)) for pattern in _PATTERNS[:2] for path in sorted(folder.glob(pattern))]
        operations.append(hub.CommitOperationAdd("README.md", make_card(folder, repo=repo, licence=licence).encode()))
        with _explain(hub, SCHEME + repo):
            api = hub.HfApi(library_name="drsn-jax")
            api.create_repo(repo, private=private or None, exist_ok=True)
            commit = api.create_commit(repo, operations, commit_message=message or "A model of drsn-jax")
    return f"{SCHEME}{repo}@{commit.oid}"


def make_card(folder: Path, *, repo: str, licence: str | None = None) -> str:
    """The README.md of a compact model with the header that the Hub reads, or a short one where there is none."""
    from drsn_jax.weights.compact import read_compact

    hub = _import_hub()
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


def _import_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError(f"Models of the Hub need huggingface_hub ({error}); pip install 'drsn-jax[hub]'.") from error
    return huggingface_hub


def _find_cached(hub: Any, repo: str, revision: str | None) -> Path | None:
    """The folder of a commit that was downloaded whole."""
    from drsn_jax.weights.compact import read_compact

    try:
        folder = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=_PATTERNS, local_files_only=True))
        read_compact(folder)
    except (OSError, InputError):
        return None
    return folder


@contextmanager
def _explain(hub: Any, address: str) -> Iterator[None]:
    """Raises InputError, in one line, for what the Hub or the way to it refuses."""
    errors = hub.errors
    login = "log in by `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"There is no {address}, or it is not for everybody: check the name, or {login}.") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{address}: there is no such revision; leave it away, or give a commit's hash.") from error
    except errors.LocalTokenNotFoundError as error:
        raise InputError(f"Writing to {address} needs an account: {login}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{address} cannot be reached, and was not downloaded before ({_reason(error)}); try again with a network."
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = login if status in (401, 403) else "try again later"
        raise InputError(f"{address} was refused ({_reason(error)}); {advice}.") from error
    except errors.HFValidationError as error:
        raise InputError(f"{address} is no name that the Hub knows ({_reason(error)}).") from error
    except OSError as error:
        raise InputError(f"{address} cannot be reached ({_reason(error)}); try again with a network.") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
