"""Options of XLA, to be set before jax is imported, by which tests compile faster; those of the caller come after them and win."""

import os
from importlib.metadata import version

# Most of the time of the tests goes into compiling. jaxlib 0.10 has two code generators for fused loops, and compiles in half the time by
# the older one, which jaxlib 0.11 no longer has: it ends a process at an option that it does not know. In one part in place of 32 the
# code of a program is made in a fifth less.
_QUICKER = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
_OLDER_CODE_GENERATOR = _QUICKER if version("jaxlib").startswith("0.10.") else ""
# On a busy machine eight devices on two cores may come later to a sum than the 40 s after which XLA ends the process.
_PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
# Without LLVM's slower passes the suite compiles in a tenth less, although what it compiles runs slower.
QUICK = f"{_PATIENT} {_OLDER_CODE_GENERATOR} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def with_given(own: str) -> str:
    """Return the options, followed by the caller's: those of the environment without the options of an outer test run."""
    return f"{own} {os.environ.get('XLA_FLAGS', '').removeprefix(QUICK).strip()}".strip()
