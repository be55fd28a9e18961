"""The public names of training as pure functions: see `drsn_jax.training.functional`."""

from drsn_jax.training.functional import Training, make_training
from drsn_jax.training.spec import LossWeights, Parts, StepSpec

__all__ = ["LossWeights", "Parts", "StepSpec", "Training", "make_training"]
