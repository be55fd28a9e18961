"""What the signatures say of types and shapes is checked in every call of the tests (conftest.py); here: that the check bites."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from drsn_jax.models.generator import Generator
from drsn_jax.models.inference import restore_batch
from drsn_jax.ops.metrics import score_batch
from drsn_jax.training.generator import generator_loss
from drsn_jax.training.losses import content_loss, pixel_loss

IMAGES = jnp.zeros((2, 16, 16, 3))


def test_every_module_of_the_package_is_under_the_check():
    modules = [module for name, module in sys.modules.items() if f"{name}.".startswith("drsn_jax.")]
    assert len(modules) > 10
    unchecked = [module.__name__ for module in modules if type(module.__spec__.loader).__name__ != "_JaxtypingLoader"]
    assert not unchecked, "imported before conftest.py installed the hook"


@pytest.mark.parametrize(
    ("call", "parameter"),
    [
        (lambda: pixel_loss(IMAGES, IMAGES[:, :12]), "restored"),  # sizes that differ
        (lambda: pixel_loss(IMAGES[0], IMAGES[0]), "sharp"),  # no batch
        (lambda: pixel_loss(IMAGES, IMAGES.astype(jnp.uint8)), "restored"),
        (lambda: content_loss(IMAGES, IMAGES[..., :2]), "restored_features"),
        (lambda: score_batch(np.zeros((2, 16, 16, 3)), IMAGES), "restored"),  # an array of the host where one of the device is meant
        (lambda: jax.eval_shape(Generator().init, jax.random.key(0), IMAGES[..., :1]), "blurred"),  # in a Flax module, under tracing
        (lambda: generator_loss(IMAGES, IMAGES, spec=1.0, score_fn=len, features_fn=len), "spec"),  # no StepSpec
    ],
)
def test_wrong_types_and_shapes_are_named(call, parameter):
    with pytest.raises(TypeCheckError, match=f"parameter '{parameter}'"):
        call()


def test_what_a_function_returns_is_checked():
    with pytest.raises(TypeCheckError, match="return value"):
        restore_batch(IMAGES, predict_fn=lambda x: x[:1], stride=4)
