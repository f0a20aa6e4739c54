"""SpecAugment: bands and stretches of a spectrogram masked, and its time warped."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def mask_axis(
    spectrograms: jax.Array, key: jax.Array, axis: int, masks: int, widest: int
) -> jax.Array:
    """Sets random stretches of an axis to the mean of their spectrogram.

    Args:
      spectrograms: float32 [batch, mel, time].
      key: decides where.
      axis: 1 or 2.
      masks: how many a spectrogram.
      widest: each is 0 to `widest` wide, uniformly.
    """
    batch, size = len(spectrograms), spectrograms.shape[axis]
    extent, place = jax.random.split(key)
    width = jax.random.randint(extent, (batch, masks), 0, min(widest, size) + 1)
    start = jnp.floor(jax.random.uniform(place, (batch, masks)) * (size - width + 1))
    position = jnp.arange(size)
    masked = (position >= start[..., None]) & (position < (start + width)[..., None])
    masked = jnp.expand_dims(masked.any(1), 3 - axis)
    return jnp.where(masked, spectrograms.mean((1, 2), keepdims=True), spectrograms)


def warp_time(spectrograms: jax.Array, key: jax.Array, reach: int) -> jax.Array:
    """Moves a random column by up to `reach` columns and stretches time on either side of it.

    Args:
      spectrograms: float32 [batch, mel, time].
      key: decides which column, and where to.
      reach: less than half of the time.
    """
    batch, _, columns = spectrograms.shape
    which, where = jax.random.split(key)
    column = jax.random.randint(which, (batch, 1), reach, columns - reach)
    moved = column + jax.random.randint(where, (batch, 1), 1 - reach, reach)
    position, last = jnp.arange(columns, dtype=jnp.float32), columns - 1
    before = position * column / jnp.maximum(moved, 1)
    after = last - (last - position) * (last - column) / jnp.maximum(last - moved, 1)
    source = jnp.clip(jnp.where(position < moved, before, after), 0, last)
    first = jnp.clip(jnp.floor(source), 0, last - 1).astype(jnp.int32)
    weight = (source - first)[:, None]
    left, right = (
        jnp.take_along_axis(spectrograms, at[:, None], axis=2) for at in (first, first + 1)
    )
    return (1 - weight) * left + weight * right
