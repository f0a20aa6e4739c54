"""Random erasing: a box of noise, the same box in every frame of a clip."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_AREA = (0.02, 1 / 3)  # as a fraction of the frame
_ASPECT = (0.3, 1 / 0.3)


def erase(clips: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Replaces a random box by normal noise in some of the clips.

    Args:
      clips: normalized, float32 [batch, frames, size, size, 3].
      key: key of the random numbers.
      probability: of a box in a clip.

    Returns:
      The shape of `clips`.
    """
    batch, size = len(clips), clips.shape[2]
    which, area, aspect, place, noise = jax.random.split(key, 5)
    area = size**2 * jax.random.uniform(area, (batch,), minval=_AREA[0], maxval=_AREA[1])
    low, high = (jnp.log(value) for value in _ASPECT)
    aspect = jnp.exp(jax.random.uniform(aspect, (batch,), minval=low, maxval=high))
    extent = jnp.round(jnp.sqrt(jnp.stack([area * aspect, area / aspect])))
    extent = jnp.minimum(extent, size)
    start = jnp.floor(jax.random.uniform(place, (2, batch)) * (size - extent + 1))
    pixel = jnp.arange(size)[None, None]
    inside = (pixel >= start[..., None]) & (pixel < (start + extent)[..., None])
    box = inside[0][:, :, None] & inside[1][:, None, :]
    box = box & jax.random.bernoulli(which, probability, (batch, 1, 1))
    return jnp.where(box[:, None, :, :, None], jax.random.normal(noise, clips.shape), clips)
