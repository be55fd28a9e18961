"""Models on the Hugging Face Hub, `hf://owner/name`, downloaded at one commit. `interop.hub` pushes them.

A model there is a compact model (see `weights.compact`) with a README.md. Nothing that is downloaded is executed: JSON, and arrays that are
read without pickle and checked by their SHA-256. huggingface_hub is imported when a function here is called.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drsn_jax.system.errors import InputError
from drsn_jax.weights.compact import read_compact

SCHEME = "hf://"
NAME = r"[\w.-]+/[\w.-]+"
_ADDRESS = re.compile(rf"{SCHEME}({NAME})(?:@([\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
PATTERNS = ["compact.json", "weights-*.npz", "README.md"]


def download_model(address: str) -> Path:
    """The folder of `hf://owner/name` or `hf://owner/name@REVISION`: a commit's hash, a branch or a tag; the main branch without one.

    Says on stderr which commit that is. What was downloaded once is found without a network afterwards, a hash without asking for it.
    Raises InputError where huggingface_hub is missing, and for what is not there, cannot be reached or is no model of drsn-jax.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(f"{address} is not the address of a model; write hf://owner/name, or hf://owner/name@REVISION.")
    repo, revision = match.groups()
    hub = import_hub()
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    with explain_refusals(hub, address):
        folder = _find_cached(hub, repo, revision) if pinned else None
        folder = folder or Path(hub.snapshot_download(repo, revision=revision, allow_patterns=PATTERNS))
    if not (folder / "compact.json").is_file():
        raise InputError(f"{address} holds no model of drsn-jax (it has no compact.json); `drsn-jax push` makes one.")
    if not pinned:
        sys.stderr.write(f"{address} is at commit {folder.name}; --model={SCHEME}{repo}@{folder.name} is the same for ever.\n")
    return folder


def import_hub() -> Any:
    """huggingface_hub. Raises InputError where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError(f"Models of the Hub need huggingface_hub ({error}); pip install 'drsn-jax[hub]'.") from error
    return huggingface_hub


def _find_cached(hub: Any, repo: str, revision: str | None) -> Path | None:
    """The folder of a commit that was downloaded whole."""
    try:
        folder = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=PATTERNS, local_files_only=True))
        read_compact(folder)
    except (OSError, InputError):
        return None
    return folder


@contextmanager
def explain_refusals(hub: Any, address: str) -> Iterator[None]:
    """Raises InputError, in one line, for what the Hub or the way to it refuses."""
    errors = hub.errors
    login = "log in by `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"There is no {address}, or it is not for everybody: check the name, or {login}.") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{address}: there is no such revision; omit it, or give a commit's hash.") from error
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
        raise InputError(f"{address} is unknown to the Hub ({_reason(error)}).") from error
    except OSError as error:
        raise InputError(f"{address} cannot be reached ({_reason(error)}); try again with a network.") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
