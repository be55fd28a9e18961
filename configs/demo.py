"""A small generator trained in minutes on two CPU cores, on photographs that scikit-image and scikit-learn carry.

    pip install '.[demo]' && drsn-jax train --config=demo --workdir=runs/demo

Expect: the whole recipe (critic, content loss, running mean, noise in training) at toy scale. The README has the figures.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.widths = (32, 48, 64)
    config.num_blocks = 1
    config.unshuffle = 2
    config.critic_widths = (16, 32, 64, 64)

    config.data = "demo"
    config.blur_length = (3.0, 15.0)
    config.crop_size = 96
    config.batch_size = 4
    config.stages = ()

    config.num_train_steps = 700
    config.learning_rate = 1e-3
    config.critic_learning_rate = 3e-4
    config.warmup_steps = 50
    config.ema_decay = 0.99

    config.log_every_steps = 20
    config.eval_every_steps = 350
    config.checkpoint_every_steps = 350
    config.eval_copies = 2
    config.sample_images = 3
    config.tensorboard = False  # TensorFlow alone takes longer to import than an evaluation here
    return config
