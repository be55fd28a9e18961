"""One training step of the Keras reference on whichever back end this process has: `python tests/keras_step.py FOLDER OPTIMIZER ...`.

FOLDER holds the networks' weights, a batch, and gets the weights after the step with each optimiser, and the losses.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np

GENERATOR = {"widths": (4, 6, 8), "num_blocks": 1, "threshold_norm": "batch", "dropout": 0.0, "output": "average"}
CRITIC = {"widths": (4, 6, 8), "dense_features": 16}
CROP, BATCH = 32, 4
RATES = {"sgd": 1e-3, "adam": 1e-4}


@functools.cache
def features():
    from drsn_jax.interop.keras_models import make_features

    return make_features()


def run(folder: Path, optimizer: str) -> None:
    import keras

    from drsn_jax.benchmark.keras_training import make_training_loop
    from drsn_jax.interop.keras_models import make_critic, make_generator

    generator, critic = make_generator(**GENERATOR), make_critic(**CRITIC, image_size=CROP)
    generator.load_weights(folder / "generator.weights.h5")
    critic.load_weights(folder / "critic.weights.h5")
    optimizers = [keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": RATES[optimizer]}}) for _ in range(2)]
    adams = {"generator_optimizer": optimizers[0], "critic_optimizer": optimizers[1]}
    train = make_training_loop(generator, critic, features(), **adams).train
    batch = np.load(folder / "batch.npz")
    losses = train(batch["blurred"], batch["sharp"])
    name = f"{keras.backend.backend()}_{optimizer}"
    generator.save_weights(folder / f"{name}_generator.weights.h5")
    critic.save_weights(folder / f"{name}_critic.weights.h5")
    (folder / f"{name}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    for name in sys.argv[2:]:
        run(Path(sys.argv[1]), name)
