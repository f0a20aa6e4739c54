"""SpecAugment: frequency masks, time masks and time warping of spectrograms."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from xkd_jax.augment.cubic import cubic_taps


def mask_axis(
    spectrograms: jax.Array, key: jax.Array, axis: int, masks: int, widest: int
) -> jax.Array:
    """Sets random intervals of an axis to the mean of their spectrogram.

    Args:
      spectrograms: float32 [batch, mel, time].
      key: key of the random numbers.
      axis: 1 (mel) or 2 (time).
      masks: number of intervals for each spectrogram.
      widest: largest width; widths are uniform in 0 to `widest`, inclusive.

    Returns:
      float32 [batch, mel, time].
    """
    batch, size = len(spectrograms), spectrograms.shape[axis]
    extent, place = jax.random.split(key)
    width = jax.random.randint(extent, (batch, masks), 0, min(widest, size) + 1)
    start = jnp.floor(jax.random.uniform(place, (batch, masks)) * (size - width + 1))
    return mask(spectrograms, axis, width, start)


def mask(spectrograms: jax.Array, axis: int, width: jax.Array, start: jax.Array) -> jax.Array:
    """Sets the given intervals of an axis to the mean of their spectrogram.

    Args:
      spectrograms: float32 [batch, mel, time].
      axis: 1 (mel) or 2 (time).
      width: [batch, masks], in bands or columns; 0: no mask.
      start: [batch, masks], the first band or column of each interval.

    Returns:
      float32 [batch, mel, time].
    """
    position = jnp.arange(spectrograms.shape[axis])[None, None]
    masked = (position >= start[..., None]) & (position < (start + width)[..., None])
    masked = jnp.expand_dims(masked.any(1), 3 - axis)
    return jnp.where(masked, spectrograms.mean((1, 2), keepdims=True), spectrograms)


def warp_time(spectrograms: jax.Array, key: jax.Array, reach: int) -> jax.Array:
    """Moves a random column by up to `reach` columns and resizes the parts on both sides of it.

    Args:
      spectrograms: float32 [batch, mel, time].
      key: key of the random numbers.
      reach: largest shift in columns, less than half of the time axis.

    Returns:
      float32 [batch, mel, time].
    """
    batch, _, columns = spectrograms.shape
    which, where = jax.random.split(key)
    column = jax.random.randint(which, (batch,), reach, columns - reach)
    moved = column + jax.random.randint(where, (batch,), 1 - reach, reach + 1)
    return warp(spectrograms, column, moved)


def warp(spectrograms: jax.Array, column: jax.Array, moved: jax.Array) -> jax.Array:
    """Resizes the columns before `column`, and those from it on, so that it moves to `moved`.

    Both parts are resized separately, as by torch's bicubic interpolation without aligned corners
    and without antialiasing.

    Args:
      spectrograms: float32 [batch, mel, time].
      column: int32 [batch], the second part's first column; 1 to time - 1.
      moved: int32 [batch], its position in the result; 1 to time - 1.

    Returns:
      float32 [batch, mel, time].
    """
    columns = spectrograms.shape[2]
    column, moved = column[:, None], moved[:, None]
    place = jnp.arange(columns)[None]
    is_before = place < moved
    first, start = jnp.where(is_before, 0, column), jnp.where(is_before, 0, moved)
    held = jnp.where(is_before, column, columns - column)
    wanted = jnp.where(is_before, moved, columns - moved)
    position = (place - start + 0.5) * (held / wanted) - 0.5
    lines = spectrograms.swapaxes(1, 2)  # a column is then contiguous in memory
    warped = jnp.zeros_like(lines)
    for source, weight in cubic_taps(position, first, held - 1):
        warped += weight[..., None] * jax.vmap(lambda line, at: line[at])(lines, source)
    return warped.swapaxes(1, 2)
