"""The public name of `drsn_jax.training.functional`."""

from drsn_jax.training.functional import Training, make_training

__all__ = ["Training", "make_training"]
