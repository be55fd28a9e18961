"""Options of XLA, to be set before jax is imported, by which tests compile faster."""

from importlib.metadata import version

# Most of the time of the tests goes into compiling. jaxlib 0.10 has two code generators for fused loops, and compiles in half the time by
# the older one, which jaxlib 0.11 no longer has: it ends a process at an option that it does not know.
OLDER_CODE_GENERATOR = "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
# On a busy machine eight devices on two cores may come later to a sum than the 40 s after which XLA ends the process.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
QUICK = f"{PATIENT} {OLDER_CODE_GENERATOR} --xla_backend_optimization_level=0"
