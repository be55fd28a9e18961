"""Every loss against numpy, and the gradient penalty where it can be worked out on paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsn_jax.ops.fourier import rfft2
from drsn_jax.training import losses


def images(seed, batch=3, height=8, width=6):
    return jnp.array(np.random.default_rng(seed).uniform(-1, 1, (batch, height, width, 3)).astype(np.float32))


SHARP, RESTORED = images(0), images(1)
KEY = jax.random.key(0)
WEIGHT = losses.draw_weights(KEY, 3)


def test_adversarial_loss_falls_as_scores_rise():
    scores = np.array([0.25, -1.0, 3.0], np.float32)
    assert losses.adversarial_loss(jnp.array(scores)) == pytest.approx(-0.75)
    np.testing.assert_allclose(jax.grad(losses.adversarial_loss)(jnp.array(scores)), -1 / 3, rtol=1e-6)


def test_critic_loss_falls_as_sharp_rises_over_restored():
    sharp, restored = jnp.array([1.0, 2.0]), jnp.array([0.5, -0.5])
    assert losses.critic_loss(sharp, restored) == pytest.approx(0.0 - 1.5)
    by_sharp, by_restored = jax.grad(losses.critic_loss, (0, 1))(sharp, restored)
    np.testing.assert_allclose(by_sharp, -0.5)
    np.testing.assert_allclose(by_restored, 0.5)


def test_content_loss_is_the_mean_over_positions_and_channels():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 7)).astype(np.float32)
    assert losses.content_loss(jnp.array(a), jnp.array(b)) == pytest.approx(((a - b).astype(np.float64) ** 2).mean(), rel=1e-5)
    half = losses.content_loss(jnp.array(a, jnp.bfloat16), jnp.array(b, jnp.bfloat16))
    assert half.dtype == jnp.float32, "a mean over a feature map is not left to bfloat16"


def test_pixel_loss_is_charbonnier():
    expected = np.sqrt(np.asarray(SHARP - RESTORED, np.float64) ** 2 + 1e-6).mean()
    assert losses.pixel_loss(SHARP, RESTORED) == pytest.approx(expected, rel=1e-6)
    assert losses.pixel_loss(SHARP, SHARP) == pytest.approx(1e-3, rel=1e-5)
    assert np.abs(jax.grad(losses.pixel_loss, 1)(SHARP, SHARP)).max() == 0, "smooth at zero"


def test_frequency_loss_equals_numpys_fft():
    spectrum = np.fft.rfft2(np.asarray(SHARP, np.float64) - RESTORED, axes=(1, 2))
    parts = np.stack([spectrum.real, spectrum.imag])
    assert losses.frequency_loss(SHARP, RESTORED) == pytest.approx(np.abs(parts).mean(), rel=1e-5)
    assert losses.frequency_loss(SHARP, SHARP) == 0
    shifted = SHARP + np.float32(0.5)
    only_dc = 0.5 * 8 * 6 / (8 * (6 // 2 + 1)) / 2  # one coefficient of height x (width // 2 + 1), real only
    assert losses.frequency_loss(SHARP, shifted) == pytest.approx(only_dc, rel=1e-4)


@pytest.mark.parametrize(("height", "width"), [(48, 30), (7, 9)])
def test_the_transform_by_products_is_the_fft(height, width):
    given = images(0, height=height, width=width)
    spectrum = np.fft.rfft2(given.astype(np.float64), axes=(1, 2))
    real, imaginary = rfft2(jnp.array(given), multiply=True)
    np.testing.assert_allclose(real, spectrum.real, atol=2e-6 * np.abs(spectrum).max())
    np.testing.assert_allclose(imaginary, spectrum.imag, atol=2e-6 * np.abs(spectrum).max())


@pytest.mark.parametrize("loss", [losses.pixel_loss, losses.frequency_loss, losses.content_loss])
def test_distances_are_symmetric_positive_and_point_home(loss):
    assert loss(SHARP, RESTORED) == pytest.approx(float(loss(RESTORED, SHARP)), rel=1e-6)
    assert loss(SHARP, RESTORED) > 0.01
    gradient = jax.grad(loss, 1)(SHARP, RESTORED)
    assert gradient.shape == RESTORED.shape
    assert (np.asarray(gradient) * (RESTORED - SHARP)).sum() > 0, "a step down the gradient goes towards the sharp image"


# The gradient penalty


def test_penalty_of_a_linear_critic():
    """D(x) = <w, x> has the slope w everywhere, so the penalty is (||w|| - 1)^2 whatever the images and the key."""
    for scale in (0.02, 1.0, 3.0):
        w = scale * np.random.default_rng(2).normal(size=SHARP.shape[1:]).astype(np.float32)
        expected = (np.linalg.norm(w.astype(np.float64)) - 1) ** 2
        for key in (KEY, jax.random.key(7)):
            penalty = losses.gradient_penalty(
                lambda x, w=w[None]: (x * w).sum((1, 2, 3)), SHARP, RESTORED, weight=losses.draw_weights(key, 3)
            )
            assert penalty == pytest.approx(expected, rel=1e-5)


def test_penalty_is_of_each_sample_not_of_their_mean():
    """D(x_n) = n-th slope times one pixel: penalties (0 - 1)^2, (1 - 1)^2 and (3 - 1)^2, mean 5/3; a pooled norm gives another."""
    slopes = jnp.array([0.0, 1.0, 3.0])
    penalty = losses.gradient_penalty(lambda x: slopes * x[:, 2, 3, 1], SHARP, RESTORED, weight=WEIGHT)
    assert penalty == pytest.approx((1 + 0 + 4) / 3, rel=1e-5)
    pooled = (np.sqrt(10.0) - 1) ** 2
    assert abs(float(penalty) - pooled) > 1


def test_penalty_is_taken_between_the_images_with_a_weight_a_sample():
    """D(x) = |x|^2 / 2 has the slope x: between 0 and 1 the norm of an image tells its weight, if it is one for all its pixels."""
    sharp, restored = jnp.ones((64, 4, 4, 3)), jnp.zeros((64, 4, 4, 3))

    def penalty(only):
        """64 times what one image adds, the others scored with the slope 1."""
        unit = jnp.zeros((1, 4, 4, 3)).at[0, 0, 0, 0].set(1.0)
        mask = jnp.arange(64) == only
        return 64 * losses.gradient_penalty(
            lambda x: jnp.where(mask, jnp.square(x).sum((1, 2, 3)) / 2, (x * unit).sum((1, 2, 3))),
            sharp,
            restored,
            weight=losses.draw_weights(KEY, 64),
        )

    penalties = np.asarray(jax.vmap(penalty)(jnp.arange(64)), np.float64)
    weights = np.asarray(jax.random.uniform(KEY, (64,)), np.float64)
    np.testing.assert_allclose(penalties, (weights * np.sqrt(48) - 1) ** 2, rtol=1e-3, atol=1e-4)
    assert len(np.unique(weights)) == 64


def test_penalty_has_a_finite_gradient_where_the_critic_is_constant():
    def penalty(scale):
        return losses.gradient_penalty(lambda x: scale * jnp.square(x).sum((1, 2, 3)), SHARP, RESTORED, weight=WEIGHT)

    value, slope = jax.value_and_grad(penalty)(0.0)
    assert value == pytest.approx(1, abs=1e-5)
    assert np.isfinite(slope)
    assert penalty(0.01) < value, "and growing from nothing lowers it"


def test_penalty_of_a_curved_critic_against_differences():
    def critic(x):
        return jnp.sin(x).sum((1, 2, 3)) * 0.1 + jnp.square(x[:, 1, 1, 1])

    weight = np.asarray(jax.random.uniform(KEY, (3, 1, 1, 1)), np.float64)
    between = weight * np.asarray(SHARP) + (1 - weight) * np.asarray(RESTORED)
    slope = 0.1 * np.cos(between)
    slope[:, 1, 1, 1] += 2 * between[:, 1, 1, 1]
    expected = ((np.sqrt((slope**2).sum((1, 2, 3))) - 1) ** 2).mean()
    assert losses.gradient_penalty(critic, SHARP, RESTORED, weight=WEIGHT) == pytest.approx(expected, rel=1e-4)
