"""The recipe of the shipped model `small`: a generator for CPUs, trained on photographs blurred on the device and on averaged video frames.

    drsn-jax train --config=small --workdir=runs/small --config.init_from=runs/little --config.train_dir=PHOTOS --config.frames_dir=CLIP \\
        --config.eval_dir=VALIDATION

PHOTOS is a folder of sharp photographs, CLIP a folder of numbered frames of a video (240 per second, as GoPro's). Expect: 1.3 M
parameters; 1.1 s a step on two idle CPU cores, 2 hours for these 6,500 steps, which are the last ones of the shipped weights. From
scratch such a range of blur lengths teaches next to nothing, so three runs with less blur came before;
docs/experiments/little-blur-first.md has their commands and figures. `--config.init_from=small` starts from the shipped weights.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.widths = (48, 64, 80)  # the finest scale is where directions of blur are learned
    config.num_blocks = 3
    config.unshuffle = 2

    config.data = "photos"
    config.frames_share = 0.25  # with a larger share of one clip the network learned that scene
    config.frames_averaged = (1, 13)
    config.crop_candidates = 2  # of four, the most detailed is hardly ever a soft background, and such backgrounds became worse
    config.blur_length = (0.0, 50.0)
    config.blur_skew = 1.5  # short blur more often; without it photographs with little blur became worse
    config.blur_inertia = (0.97, 1.0)  # nearly straight, because exposures are short
    config.blur_moment = "middle"
    config.blur_variation = 0.0  # within a crop objects matter more, and varying kernels cost three times as much
    config.blur_object = 0.4
    config.blur_softness = (0.0, 1.0)
    config.jpeg_quality = (85.0, 100.0)
    config.noise_variance = (0.0, 0.0015)
    config.noise_share = 0.5  # with noise in all images the network smoothed those without noise
    config.stages = ((0, 128, 8), (4_500, 192, 4))

    config.adversarial_weight = 0.0
    config.content_weight = 0.0
    config.frequency_weight = 0.0

    config.num_train_steps = 6_500
    config.optimizer = "muon"
    config.learning_rate = 5e-4
    config.warmup_steps = 100
    config.weight_decay = 0.0
    config.ema_decay = 0.998

    config.eval_every_steps = 1_500
    config.checkpoint_every_steps = 500
    return config
