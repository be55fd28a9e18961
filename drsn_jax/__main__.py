"""`python -m drsn_jax` is `drsn-jax`."""

from drsn_jax.cli.main import run_process

run_process()
