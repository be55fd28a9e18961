"""The recipe of the shipped model `base`: `small`'s with wider scales and one more block at each, starting from `small`'s weights.

    drsn-jax train --config=base --workdir=runs/base --config.init_from=runs/first --config.train_dir=PHOTOS --config.frames_dir=CLIP \\
        --config.eval_dir=VALIDATION

PHOTOS and CLIP are as in small.py. Expect: 3.8 M parameters; 2.6 s a step on two idle CPU cores, 4.5 hours for these 6,000 steps, which
are the last ones of the shipped weights. The run before them started from `small` and had less blur; docs/experiments/base.md has its
command. On a GPU add `--config.dtype=bfloat16`. `--config.init_from=base` starts from the shipped weights.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config("small")
    config.widths = (64, 96, 128)
    config.num_blocks = 4
    config.blur_inertia = (0.985, 1.0)  # as straight as the clip's own motion over 7 to 13 frames
    config.stages = ((0, 128, 8), (4_000, 192, 4))
    config.num_train_steps = 6_000
    config.learning_rate = 6e-4
    return config
