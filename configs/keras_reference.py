"""The paper's network trained as in the Keras DeblurGAN reference (SPEC section 1): for comparison, not for results.

    drsn-jax train --config=keras_reference --workdir=runs/keras --config.train_dir=GOPRO_Large/train --config.batch_size=4

Expect the same as paper.py, and images that start at half contrast. The reference's own batch size of 1 is refused, because with it the
batch norm in the threshold branch would make the thresholds constant. --config.threshold_norm=none allows it.
"""

from ml_collections import ConfigDict

from drsn_jax.config.files import find_config, run_config_file


def get_config() -> ConfigDict:
    config = run_config_file(find_config("paper"))
    config.output = "average"  # (input + tanh) / 2
    config.threshold_norm = "batch"
    config.critic_update = "alternating"  # sharp, then restored: two Adam updates, each with its own batch statistics
    config.fake_mode = "inference"  # the reference calls predict once per batch
    config.critic_norm_in_generator_step = "moving"  # the frozen critic runs in inference mode
    config.adam_form = "keras"
    return config
