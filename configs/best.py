"""Our recipe as far as it is known: the values of default.py, which moves with what is measured.

    drsn-jax train --config=best --workdir=runs/best --config.train_dir=GOPRO_Large/train --config.eval_dir=VALIDATION

Expect what default.py says.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    return base_config()
