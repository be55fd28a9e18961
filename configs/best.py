"""The GAN recipe for an accelerator: the values of default.py, with a patch critic under a gradient penalty, and noise in training.

Nobody has trained it to the end. What was measured since, on CPUs and smaller networks, is in small.py and base.py and not
yet here: Muon instead of Adam, no frequency loss, noise in half of the images, crops chosen for detail (docs/experiments).

    drsn-jax train --config=best --workdir=runs/best --config.train_dir=GOPRO_Large/train --config.eval_dir=VALIDATION

Expect what default.py says.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    return base_config()
