"""Models on the Hugging Face Hub, `hf://owner/name`, downloaded at one commit. `interop.hub` uploads them.

Such a model is a compact model (see `weights.compact`) with a README.md. No downloaded file is executed. JSON is parsed, and arrays are
read without pickle and checked by their SHA-256. huggingface_hub is imported inside functions.
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
    """Download `hf://owner/name` or `hf://owner/name@REVISION` (a commit's hash, a branch or a tag; default: the main branch).

    Returns the folder, and reports the commit on stderr. Without a network an earlier download is used; a hash needs no request.
    Raises InputError if huggingface_hub is missing, and for an address that does not exist, cannot be reached or is no model of drsn-jax.
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
        sys.stderr.write(f"{address} is at commit {folder.name}; --model={SCHEME}{repo}@{folder.name} always gives this one.\n")
    return folder


def import_hub() -> Any:
    """Import huggingface_hub. Raises InputError if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise InputError(f"Models of the Hub need huggingface_hub ({error}): pip install 'drsn-jax[hub]'.") from error
    return huggingface_hub


def _find_cached(hub: Any, repo: str, revision: str | None) -> Path | None:
    """Return the folder of a commit that was downloaded completely."""
    try:
        folder = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=PATTERNS, local_files_only=True))
        read_compact(folder)
    except (OSError, InputError):
        return None
    return folder


@contextmanager
def explain_refusals(hub: Any, address: str) -> Iterator[None]:
    """Turn refusals of the Hub and network errors into InputError, in one line."""
    errors = hub.errors
    login = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{address} does not exist or is private; check the name, or {login}.") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{address}: there is no such revision; omit it, or give a commit's hash.") from error
    except errors.LocalTokenNotFoundError as error:
        raise InputError(f"Writing to {address} needs an account: {login}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{address} cannot be reached, and was not downloaded before ({_reason(error)}); check the network and try again."
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = login if status in (401, 403) else "try again later"
        raise InputError(f"{address} was refused ({_reason(error)}); {advice}.") from error
    except errors.HFValidationError as error:
        raise InputError(f"{address} is unknown to the Hub ({_reason(error)}).") from error
    except OSError as error:
        raise InputError(f"{address} cannot be reached ({_reason(error)}); check the network and try again.") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
