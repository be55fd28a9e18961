"""`python -m drsn_jax`, the same as `drsn-jax`."""

from drsn_jax.cli.main import run_process

run_process()
