"""Mixup and CutMix of clips and of their targets."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def mix(
    clips: jax.Array, targets: jax.Array, key: jax.Array, mixup: float, cutmix: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each clip with its counterpart from the other end of the batch.

    With both, a batch gets one of them, each with probability 1/2. Mixup blends by a share from
    Beta(mixup, mixup); CutMix pastes a box, the same in every frame, whose area is 1 minus a share
    from Beta(cutmix, cutmix) before it is cut off at the frame's edges. Targets are mixed by the
    share of each clip that is left.

    Args:
      clips: float32 [batch, frames, size, size, 3].
      targets: float32 [batch, classes].
      key: decides all.
      mixup: parameter of the distribution; 0: off.
      cutmix: the same.
    """
    choice, blend_key, box_key = jax.random.split(key, 3)
    other_clips, other_targets = clips[::-1], targets[::-1]
    share = jax.random.beta(blend_key, mixup, mixup) if mixup else jnp.ones(())
    mixed = share * clips + (1 - share) * other_clips
    if cutmix:
        box = _box(box_key, clips.shape[2], cutmix)
        pasted = jnp.where(box[:, :, None], other_clips, clips)
        cut = jax.random.bernoulli(choice) if mixup else jnp.array(True)
        mixed = jnp.where(cut, pasted, mixed)
        share = jnp.where(cut, 1 - box.mean(), share)
    return mixed, share * targets + (1 - share) * other_targets


def _box(key: jax.Array, size: int, cutmix: float) -> jax.Array:
    """A random square box, cut off at the edges: bool [size, size]."""
    area, place = jax.random.split(key)
    side = jnp.floor(size * jnp.sqrt(1 - jax.random.beta(area, cutmix, cutmix)))
    centre = jnp.floor(jax.random.uniform(place, (2, 1)) * size)
    start, stop = centre - side // 2, centre + side // 2
    pixel = jnp.arange(size)
    inside = (pixel >= start) & (pixel < stop)
    return inside[0][:, None] & inside[1][None, :]
