"""The parts and the switches of a training step."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import optax

from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.ops.backend import Forms, forms_here
from drsn_jax.system.errors import InputError
from drsn_jax.training.accumulation import MicroBatches
from drsn_jax.training.losses import Features, Images

PyTree = Any
FeaturesFn = Callable[[PyTree, Images], Features]


class LossWeights(NamedTuple):
    """The weight of each term of the generator's loss; a term of weight 0 is not computed. The paper's: 1, 100, 0, 0."""

    adversarial: float = 1.0
    content: float = 100.0
    pixel: float = 0.0
    frequency: float = 0.0

    def check(self) -> None:
        """Raise InputError for a negative weight, or if all are 0."""
        for name, weight in self._asdict().items():
            if weight < 0:
                raise InputError(f"{name}_weight={weight} is negative; use 0 (not computed) or more (--config.{name}_weight=1).")
        if not any(self):
            raise InputError("All loss weights are 0: there is nothing to learn; set one, for example --config.pixel_weight=1.")


def no_features(params: PyTree, images: Images) -> Features:
    """Replace the content loss's features if its weight is 0; raises InputError if they are used."""
    raise InputError(
        "The content loss needs features. Give features_fn, such as the `apply` of drsn_jax.models.vgg19.VGG19, with its parameters"
        " (drsn_jax.weights.vgg19) in each step, or a content weight of 0."
    )


class Parts(NamedTuple):
    """The networks of a training, their optimisers, and the features of the content loss.

    `learning_rate_fn` is the generator's rate by step, for the metrics. `features_fn` maps frozen parameters and images [b h w 3] in
    [-1, 1] to features [b h2 w2 c]. The parameters are an argument of the step, so they are not constants in its program.
    """

    generator: Generator
    critic: Critic
    generator_tx: optax.GradientTransformation
    critic_tx: optax.GradientTransformation
    learning_rate_fn: optax.Schedule
    features_fn: FeaturesFn = no_features


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSpec:
    """The switches of a training step (SPEC section 2).

    - `critic_steps`: critic updates before each generator update.
    - `critic_batches`: same (the critic learns from the generator's batch and its restorations) or fresh (a batch for each update).
    - `critic_update`: joint (one optimiser update on one batch of both kinds) or alternating (two updates as in the Keras reference, sharp
      first, each with its own batch statistics).
    - `fake_mode`: inference restores the critic's images without dropout and with moving statistics.
    - `lipschitz`: clip bounds every parameter of the critic by `clip_value` after an update (WGAN); gradient_penalty adds
      `penalty_weight` times the penalty (WGAN-GP).
    - `ema_decay`: above 0 it keeps a running mean of the generator.
    - `accumulation_steps`: above 1 each gradient is the mean over that many micro-batches.
    - `on_nonfinite`: skip leaves networks and optimisers unchanged if a step's figures are not finite.
    - `forms`: see `ops.backend`.
    """

    weights: LossWeights = dataclasses.field(default_factory=LossWeights)
    critic_steps: int = 5
    critic_batches: Literal["same", "fresh"] = "same"
    critic_update: Literal["joint", "alternating"] = "joint"
    fake_mode: Literal["train", "inference"] = "train"
    critic_norm_in_generator_step: Literal["batch", "moving"] = "batch"
    lipschitz: Literal["none", "clip", "gradient_penalty"] = "none"
    penalty_weight: float = 10.0
    clip_value: float = 0.01
    ema_decay: float = 0.0
    accumulation_steps: int = 1
    on_nonfinite: Literal["stop", "skip"] = "stop"
    forms: Forms = dataclasses.field(default_factory=forms_here)

    @property
    def batch_parts(self) -> int:
        """Return the number of equal parts of a batch: one, or with fresh batches one more than there are critic updates."""
        return self.critic_steps + 1 if self.critic_batches == "fresh" and self.weights.adversarial else 1

    @property
    def micro_batches(self) -> MicroBatches:
        """The micro-batches over which each gradient is averaged."""
        return MicroBatches(self.accumulation_steps, self.forms)

    def check(self, critic: Critic) -> None:
        """Raise InputError for invalid weights, and for a gradient penalty with batch norm or with alternating updates."""
        self.weights.check()
        if self.lipschitz == "gradient_penalty":
            if critic.norm == "batch":
                raise InputError(
                    "lipschitz=gradient_penalty is incompatible with batch norm. It makes a score depend on the other images"
                    " of the batch; use --config.critic_norm=none, instance or layer."
                )
            if self.critic_update == "alternating":
                raise InputError(
                    "lipschitz=gradient_penalty needs sharp and restored images in one update; use --config.critic_update=joint."
                )
