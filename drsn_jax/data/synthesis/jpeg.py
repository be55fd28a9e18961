"""JPEG compression loss inside jit: baseline, standard tables, no chroma subsampling. Parity with Pillow is tested."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

# ITU-T T.81, Annex K, tables K.1 and K.2.
_LUMA_ROWS = (
    (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
LUMA = np.array(_LUMA_ROWS, np.float32).reshape(8, 8)
CHROMA = np.full((8, 8), 99, np.float32)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
FROM_YCC = np.linalg.inv(TO_YCC.astype(np.float64)).astype(np.float32)
_EXACT = jax.lax.Precision.HIGHEST


def compress(image: Float[Array, "h w 3"], quality: Float[Array, ""]) -> Float[Array, "h w 3"]:
    """Compress an image in [0, 1] with a JPEG quality from 1 to 100 (libjpeg's scale); the sides are multiples of 8."""
    height, width, _ = image.shape
    scale = jnp.where(quality < 50, 5000.0 / quality, 200.0 - 2.0 * quality)
    tables = jnp.clip(jnp.floor((jnp.stack([LUMA, CHROMA, CHROMA]) * scale + 50.0) / 100.0), 1.0, 255.0)
    ycc = jnp.einsum("hwc,dc->hwd", jnp.round(image * 255.0), TO_YCC, precision=_EXACT) - jnp.array([[[128.0, 0.0, 0.0]]])
    blocks = jnp.round(ycc).reshape(height // 8, 8, width // 8, 8, 3)
    dct = jnp.asarray(_dct_matrix())
    coefficients = jnp.einsum("ui,aibjc,vj->abcuv", dct, blocks, dct, precision=_EXACT)
    kept = jnp.round(coefficients / tables[None, None]) * tables[None, None]
    blocks = jnp.round(jnp.einsum("ui,abcuv,vj->aibjc", dct, kept, dct, precision=_EXACT))
    ycc = blocks.reshape(height, width, 3) + jnp.array([[[128.0, 0.0, 0.0]]])
    return jnp.clip(jnp.round(jnp.einsum("hwc,dc->hwd", ycc, FROM_YCC, precision=_EXACT)), 0.0, 255.0) / 255.0


def jpeg(key: PRNGKeyArray, image: Float[Array, "h w 3"], *, quality: tuple[float, float]) -> Float[Array, "h w 3"]:
    """Apply `compress` at a random quality and block position. Sides are padded to multiples of 8 and cropped again."""
    quality_key, row_key, column_key = jax.random.split(key, 3)
    height, width, _ = image.shape
    pad = [(8, 8 + -height % 8), (8, 8 + -width % 8), (0, 0)]
    shift = jnp.stack([jax.random.randint(row_key, (), 0, 8), jax.random.randint(column_key, (), 0, 8)])
    moved = jnp.roll(jnp.pad(image, pad, mode="edge"), shift, axis=(0, 1))
    drawn = jax.random.uniform(quality_key, (), minval=quality[0], maxval=quality[1])
    return jnp.roll(compress(moved, drawn), -shift, axis=(0, 1))[8 : 8 + height, 8 : 8 + width]


def _dct_matrix() -> np.ndarray:
    """Return the orthonormal DCT-II of 8 values, rows by frequency."""
    frequency, place = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    matrix = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)
