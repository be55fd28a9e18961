"""Named tensors of PyTorch weight files: torch.save's two formats and safetensors, distinguished by content."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes  # noqa: F401  makes numpy know bfloat16, which safetensors asks it for
import numpy as np
from safetensors import safe_open

from drsn_jax.system.errors import InputError
from drsn_jax.weights.torch_files import read_torch_pickle, read_torch_zip

Tensors = dict[str, np.ndarray]


def read_tensors(path: Path, *, keep: Callable[[str], bool] = lambda name: True) -> Tensors:
    """Read the tensors whose names `keep` accepts, by name; half precision and bfloat16 become float32.

    Nothing in the file is executed. Raises InputError, in one line, for a missing, truncated, damaged, malicious or foreign file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
            if head.startswith(b"PK\x03\x04"):
                tensors = read_torch_zip(path, keep=keep)
            elif head.startswith(b"\x80"):
                tensors = read_torch_pickle(path, keep=keep)
            elif head[8:] == b"{":
                with safe_open(path, framework="numpy") as stored:
                    tensors = {name: stored.get_tensor(name) for name in stored.keys() if keep(name)}  # noqa: SIM118  it is no dict
            else:
                raise InputError(f"{path} is not a weight file: give one written by torch.save (.pth, .pt), or .safetensors.")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); give a .pth or .safetensors file of weights.") from error
    except Exception as error:  # a damaged file can fail in many ways
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{path} is damaged, or not a file of weights ({reason}); fetch it again, or give another.") from error
    return {
        name: np.asarray(tensor, np.float32) if jnp.issubdtype(tensor.dtype, jnp.floating) else tensor for name, tensor in tensors.items()
    }
