"""SpecAugment: bands and stretches of a spectrogram masked, and its time warped."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from xkd_jax.augment.cubic import cubic_taps


def mask_axis(
    spectrograms: jax.Array, key: jax.Array, axis: int, masks: int, widest: int
) -> jax.Array:
    """Sets random stretches of an axis to the mean of their spectrogram.

    Args:
      spectrograms: float32 [batch, mel, time].
      key: decides where.
      axis: 1 or 2.
      masks: how many a spectrogram.
      widest: each is 0 to `widest` wide, both included, uniformly.
    """
    batch, size = len(spectrograms), spectrograms.shape[axis]
    extent, place = jax.random.split(key)
    width = jax.random.randint(extent, (batch, masks), 0, min(widest, size) + 1)
    start = jnp.floor(jax.random.uniform(place, (batch, masks)) * (size - width + 1))
    return mask(spectrograms, axis, width, start)


def mask(spectrograms: jax.Array, axis: int, width: jax.Array, start: jax.Array) -> jax.Array:
    """Sets given stretches of an axis to the mean of their spectrogram.

    Args:
      spectrograms: float32 [batch, mel, time].
      axis: 1 or 2.
      width: [batch, masks], in bands or columns; 0: no mask.
      start: [batch, masks], the first of each.
    """
    position = jnp.arange(spectrograms.shape[axis])[None, None]
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
    column = jax.random.randint(which, (batch,), reach, columns - reach)
    moved = column + jax.random.randint(where, (batch,), 1 - reach, reach + 1)
    return warp(spectrograms, column, moved)


def warp(spectrograms: jax.Array, column: jax.Array, moved: jax.Array) -> jax.Array:
    """Stretches what lies before a column, and what begins with it, to meet at another column.

    Each of the two is resized by itself, as torch's bicubic interpolation without aligned corners
    and without antialiasing: neither reads the other's columns.

    Args:
      spectrograms: float32 [batch, mel, time].
      column: int32 [batch], where the second part begins; 1 to time - 1.
      moved: int32 [batch], where it begins afterwards; 1 to time - 1.
    """
    columns = spectrograms.shape[2]
    column, moved = column[:, None], moved[:, None]
    place = jnp.arange(columns)[None]
    is_before = place < moved
    first, start = jnp.where(is_before, 0, column), jnp.where(is_before, 0, moved)
    held = jnp.where(is_before, column, columns - column)
    wanted = jnp.where(is_before, moved, columns - moved)
    position = (place - start + 0.5) * (held / wanted) - 0.5
    lines = spectrograms.swapaxes(1, 2)  # a column is then read in one piece
    warped = jnp.zeros_like(lines)
    for source, weight in cubic_taps(position, first, held - 1):
        warped += weight[..., None] * jax.vmap(lambda line, at: line[at])(lines, source)
    return warped.swapaxes(1, 2)
