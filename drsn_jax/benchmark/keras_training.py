"""The Keras reference's training loop in idiomatic Keras: compiled models, `predict_on_batch` and `train_on_batch`.

Importing this module imports keras (see `keras_models`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

Losses = dict[str, float]
TrainOnBatch = Callable[[Any, Any], Losses]


class TrainingLoop(NamedTuple):
    """One step of the reference and its parts. Inputs may be tensors of the back end or of numpy."""

    predict: Callable[[Any], Any]  # blurred -> restored, in inference mode
    critic_part: Callable[[Any, Any], Losses]  # (sharp, restored)
    generator_part: Callable[[Any, Any], Losses]  # (blurred, sharp)
    train: TrainOnBatch  # (blurred, sharp): all three


def wasserstein(labels: Any, scores: Any) -> Any:
    """Compute mean(label x score): label -1 raises the scores, +1 lowers them."""
    return ops.mean(labels * scores)


def make_content_loss(features: keras.Model) -> Callable[[Any, Any], Any]:
    """Make the mean squared difference between the features of sharp and restored images, in float32 for features of any dtype."""

    def content(sharp: Any, restored: Any) -> Any:
        def compute(images: Any) -> Any:
            return ops.cast(features(images, training=False), "float32")

        return ops.mean(ops.square(compute(sharp) - compute(restored)))

    return content


def choose_jit() -> bool:
    """Choose whether to compile with XLA: on JAX always, on TensorFlow for accelerators, never through torch.compile.

    Measured with `drsn-jax bench`: on a CPU TensorFlow's own kernels are faster than XLA's.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"))
    return keras.backend.backend() == "jax"


def make_training_loop(
    generator: keras.Model,
    critic: keras.Model,
    features: keras.Model,
    *,
    generator_optimizer: keras.optimizers.Optimizer,
    critic_optimizer: keras.optimizers.Optimizer,
    content_weight: float = 100.0,
    adversarial_weight: float = 1.0,
    critic_steps: int = 5,
    jit_compile: bool | None = None,
) -> TrainingLoop:
    """Build one step of the reference on images [b h w 3] in [-1, 1]; the networks are updated in place.

    The restorations are predicted once, in inference mode. The critic then makes `critic_steps` double updates: one on sharp images, one
    on restored images, each with batch norm on its own batch. Last, the generator is updated through the frozen critic, which is in
    inference mode. `jit_compile` None selects the faster choice for the back end. The losses are critic/sharp and critic/restored (mean
    scores over the updates), generator/content, generator/adversarial (unweighted) and generator/loss.
    """
    jit: Any = choose_jit() if jit_compile is None else jit_compile
    critic.compile(critic_optimizer, loss=wasserstein, jit_compile=jit)
    generator.compile("sgd", jit_compile=jit)  # for predict; the optimiser is unused
    restored = generator(generator.inputs[0])
    both = keras.Model(generator.inputs, [restored, critic(restored)], name="generator_through_critic")
    both.compile(
        generator_optimizer,
        loss=[make_content_loss(features), wasserstein],
        loss_weights=[content_weight, adversarial_weight],
        jit_compile=jit,
    )

    def critic_part(sharp: Any, restored: Any) -> Losses:
        raise_scores, lower_scores = _labels(sharp, -1.0), _labels(sharp, 1.0)
        critic.trainable = True
        sharp_loss = restored_loss = 0.0
        for _ in range(critic_steps):
            sharp_loss += critic.train_on_batch(sharp, raise_scores, return_dict=True)["loss"] / critic_steps
            restored_loss += critic.train_on_batch(restored, lower_scores, return_dict=True)["loss"] / critic_steps
        return {"critic/sharp": -float(sharp_loss), "critic/restored": float(restored_loss)}

    def generator_part(blurred: Any, sharp: Any) -> Losses:
        critic.trainable = False  # Keras then also runs its batch norms on moving statistics
        loss, content, adversarial = both.train_on_batch(blurred, [sharp, _labels(sharp, -1.0)])
        losses = {"generator/loss": loss, "generator/content": content, "generator/adversarial": adversarial}
        return {name: float(value) for name, value in losses.items()}

    def train(blurred: Any, sharp: Any) -> Losses:
        blurred, sharp = ops.convert_to_tensor(blurred), ops.convert_to_tensor(sharp)  # to the device once, not with every update
        restored = ops.convert_to_tensor(generator.predict_on_batch(blurred))
        return critic_part(sharp, restored) | generator_part(blurred, sharp)

    return TrainingLoop(generator.predict_on_batch, critic_part, generator_part, train)


def _labels(images: Any, label: float) -> Any:
    return ops.full((len(images), 1), label, dtype="float32")
