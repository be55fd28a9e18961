"""Named tensors of a weight file of the PyTorch world: torch.save's two formats and safetensors, told apart by content."""

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
    """The tensors whose names `keep` admits, by name, half precision and bfloat16 as float32.

    Nothing that the file says is executed. Raises InputError, in one line, for a missing, truncated, damaged, malicious or foreign file.
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
    except Exception as error:  # a damaged file fails in as many ways as there are bytes in it
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{path} is damaged, or no file of weights ({reason}); fetch it again, or give another.") from error
    return {
        name: np.asarray(tensor, np.float32) if jnp.issubdtype(tensor.dtype, jnp.floating) else tensor for name, tensor in tensors.items()
    }
