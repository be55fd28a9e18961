"""The recipe of the shipped model `small`: a generator for CPUs, trained on photographs blurred on the device and on averaged video frames.

    drsn-jax train --config=small --workdir=runs/small --config.train_dir=PHOTOS --config.frames_dir=CLIP --config.eval_dir=VALIDATION

PHOTOS is a folder of sharp photographs, CLIP one of a video's numbered frames (240 a second, as GoPro's). Expect: 1.8 M parameters; about
0.6 s a step on two quiet CPU cores, so that all of it takes 17 hours. The shipped weights came by several shorter runs, of which the last
had these data: see RESULTS.md. `--config.init_from=small` goes on from them; `--config.num_train_steps` and `--config.stages` shorten it.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.widths = (24, 48, 96)
    config.unshuffle = 2
    config.middle_blocks = 6  # a long blur is seen from far; they cost a CPU little

    config.data = "photos"
    config.frames_share = 0.25  # more of one clip taught its place
    config.frames_averaged = (1, 13)
    config.crop_candidates = 2  # of four the most detailed is hardly ever a soft background, and those were made worse
    config.blur_length = (0.0, 55.0)
    config.blur_skew = 1.5  # little blur oftener, or it was made worse
    config.blur_inertia = (0.97, 1.0)  # nearly straight: an exposure is short
    config.blur_moment = "middle"
    config.blur_variation = 0.0  # within a crop objects make the difference, and kernels that vary cost three times as much
    config.blur_object = 0.5
    config.blur_softness = (0.0, 1.0)
    config.jpeg_quality = (85.0, 100.0)
    config.noise_variance = (0.0, 0.0015)
    config.noise_share = 0.5  # with noise in all images it smoothed those without
    config.stages = ((0, 160, 5), (40_000, 192, 4))

    config.adversarial_weight = 0.0
    config.content_weight = 0.0
    config.frequency_weight = 0.02

    config.num_train_steps = 100_000
    config.optimizer = "muon"
    config.learning_rate = 2e-3
    config.warmup_steps = 100
    config.weight_decay = 0.0

    config.eval_every_steps = 1_000
    config.checkpoint_every_steps = 500
    return config
