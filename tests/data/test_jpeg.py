"""JPEG on the device against Pillow's (libjpeg)."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from drsn_jax.data.synthesis.jpeg import compress, jpeg

compressed = jax.jit(compress)


def by_pillow(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=quality, subsampling=0)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 98])
def test_the_same_as_pillow_but_for_rounding(photograph, quality):
    image = photograph[64:192, 128:320]
    theirs = by_pillow(image, quality).astype(int)
    ours = np.rint(np.asarray(compressed(jnp.asarray(image / 255.0), jnp.float32(quality))) * 255).astype(int)
    # libjpeg transforms in whole numbers: a coefficient half-way between two steps may fall to the other side.
    loss = np.sqrt(np.mean((theirs - image) ** 2))
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.2 * loss + 0.7
    assert np.sqrt(np.mean((ours - image) ** 2)) == pytest.approx(loss, rel=0.03)


def test_any_size_any_grid_and_better_with_quality(photograph):
    image = jnp.asarray(photograph[100:145, 100:167] / 255.0, jnp.float32)
    losses = []
    for low in (30.0, 60.0, 95.0):
        result = jpeg(jax.random.key(0), image, quality=(low, low))
        assert result.shape == image.shape
        losses.append(float(jnp.abs(result - image).mean()))
    assert losses == sorted(losses, reverse=True)
    one, other = (jpeg(jax.random.key(seed), image, quality=(30.0, 30.0)) for seed in (1, 2))
    assert (one != other).any(), "the grid of blocks lies elsewhere"
