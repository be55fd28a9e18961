"""A small generator trained in minutes on two CPU cores, on photographs from scikit-image and scikit-learn.

    pip install '.[demo]' && drsn-jax train --config=demo --workdir=runs/demo

Expect: the whole recipe (critic, content loss, running mean, noise in training) at toy scale. The figures are in
docs/tutorials/train-a-small-model.md.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.widths = (16, 32, 64)
    config.num_blocks = 1
    config.critic_widths = (16, 32, 32)

    config.data = "demo"
    config.blur_length = (8.0, 16.0)  # even, nearly horizontal pans: learned in a few minutes, unlike general camera shake
    config.blur_inertia = (0.999, 1.0)
    config.blur_cross = 0.02
    config.blur_variation = 0.1
    config.rotate = False
    config.noise_variance = (0.0, 0.001)
    config.crop_size = 64
    config.batch_size = 4
    config.stages = ()

    config.num_train_steps = 1_000
    config.learning_rate = 2e-3
    config.critic_learning_rate = 5e-4
    config.warmup_steps = 50
    config.clip_norm = 0.0
    config.weight_decay = 0.0
    config.frequency_weight = 0.05
    config.ema_decay = 0.99

    config.log_every_steps = 50
    config.eval_every_steps = 500
    config.checkpoint_every_steps = 250
    config.eval_copies = 3
    config.sample_images = 3
    config.tensorboard = False  # importing TensorFlow takes longer than an evaluation here
    return config
