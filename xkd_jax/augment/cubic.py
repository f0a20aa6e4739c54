"""Bicubic interpolation along one axis, as in torch and OpenCV."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

_A = -0.75  # the kernel's coefficient in torch and OpenCV


def cubic_taps(
    position: jax.Array, first: jax.Array, last: jax.Array
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields the four taps of each position: indices on the axis, and their weights.

    Positions are within an interval of the axis; its end values are repeated outside of it.

    Args:
      position: float32 [batch, out], relative to the interval's first index; may be outside.
      first: int32 [batch, out] or [batch, 1], the interval's first index on the axis.
      last: int32 [batch, out] or [batch, 1], the interval's length - 1.

    Yields:
      Indices, int32 [batch, out], and weights, float32 [batch, out].
    """
    whole = jnp.floor(position)
    for tap in (-1, 0, 1, 2):
        place = first + jnp.clip(whole.astype(jnp.int32) + tap, 0, last)
        yield place, _kernel(jnp.abs(position - whole - tap))


def _kernel(distance: jax.Array) -> jax.Array:
    """Keys' cubic kernel (1981) at distances in 0..2."""
    a, d = _A, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return jnp.where(d <= 1, near, far)
