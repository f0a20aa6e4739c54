"""Bicubic interpolation along one axis as a matrix, in the manner of torch and OpenCV."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

_A = -0.75  # torch's and OpenCV's coefficient of the kernel


def cubic_weights(position: jax.Array, first: jax.Array, last: jax.Array, size: int) -> jax.Array:
    """Weights [batch, out, size] that read an axis of `size` values at positions of a stretch.

    The stretch's end values are repeated outside of it. Where it reaches beyond the axis, nothing
    is read: zeros.

    Args:
      position: float32 [batch, out], from the stretch's first value on; not necessarily inside.
      first: int32 [batch, out] or [batch, 1], where the stretch begins on the axis.
      last: int32 [batch, out] or [batch, 1], the stretch's length less one.
      size: of the axis.
    """
    whole = jnp.floor(position)
    weights = jnp.zeros((*position.shape, size), jnp.float32)
    for tap in (-1, 0, 1, 2):
        weight = _kernel(jnp.abs(position - whole - tap))
        source = first + jnp.clip(whole.astype(jnp.int32) + tap, 0, last)
        weights += jnp.where(source[..., None] == np.arange(size), weight[..., None], 0)
    return weights


def _kernel(distance: jax.Array) -> jax.Array:
    """Keys' kernel at distances in 0..2."""
    a, d = _A, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return jnp.where(d <= 1, near, far)
