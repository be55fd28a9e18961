"""The GAN recipe for an accelerator: the values of default.py, with a patch critic, a gradient penalty, and noise in training.

No run has reached the end. Later findings on CPUs and smaller networks are in small.py and base.py and not yet here: Muon instead of Adam,
no frequency loss, noise in half of the images, crops selected for detail (docs/experiments).

    drsn-jax train --config=best --workdir=runs/best --config.train_dir=GOPRO_Large/train --config.eval_dir=VALIDATION

Expect the same as default.py.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    return base_config()
