"""The paper's network trained the way the Keras DeblurGAN reference trains (SPEC section 1): for comparison, not for results.

    drsn-jax train --config=keras_reference --workdir=runs/keras --config.train_dir=GOPRO_Large/train --config.batch_size=4

Expect what paper.py says, and images that begin at half contrast. With a global batch of 1 the batch norm inside the threshold branch would
make the thresholds constant, so training with the reference's own batch size of 1 is refused unless --config.threshold_norm is changed.
"""

from ml_collections import ConfigDict

from drsn_jax.config.files import find_config, run_config_file


def get_config() -> ConfigDict:
    config = run_config_file(find_config("paper"))
    config.output = "average"  # (input + tanh) / 2
    config.threshold_norm = "batch"
    config.critic_update = "alternating"  # sharp, then restored: two Adam updates, two batches of batch norm
    config.fake_mode = "inference"  # the reference calls predict once a batch
    config.critic_norm_in_generator_step = "moving"  # the frozen critic runs in inference mode
    config.adam_form = "keras"
    return config
