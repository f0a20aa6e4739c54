"""Mixup and CutMix of clips and of their targets."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from xkd_jax.config.fit_settings import CutmixAxes


def mix(
    clips: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    mixup: float,
    cutmix: float,
    *,
    axes: CutmixAxes = "height_width",
    group: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Mixes clip i of the batch, or of a group, with clip -1 - i.

    If both are on, a group gets mixup or CutMix, each with probability 1/2. Mixup's weight of the
    first clip is drawn from Beta(mixup, mixup). CutMix replaces a box; the fraction of the frame
    outside of it is drawn from Beta(cutmix, cutmix), before the box is clipped to the frame.
    Targets have the weights of the clips that remain.

    Args:
      clips: float32 [batch, frames, height, width, 3].
      targets: float32 [batch, classes].
      key: key of the random numbers.
      mixup: alpha of mixup's Beta distribution; 0: off.
      cutmix: alpha of CutMix's Beta distribution; 0: off.
      axes: axes of the box. `height_width`: the same pixels of every frame. `time_height`: frames
        and rows of pixels, as timm's Mixup applied to [batch, 3, frames, height, width]. Its size
        is computed for height x width, so that a box beyond the last frame changes targets only.
      group: number of consecutive clips that use the same random numbers, a divisor of the batch;
        0: all.

    Returns:
      Mixed clips and targets, of the same shapes.
    """

    def together(
        clips: jax.Array, targets: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return _mix_together(clips, targets, key, mixup, cutmix, axes)

    if not group:
        return together(clips, targets, key)
    groups = len(clips) // group
    mixed, found = jax.vmap(together)(
        clips.reshape(groups, group, *clips.shape[1:]),
        targets.reshape(groups, group, -1),
        jax.random.split(key, groups),
    )
    return mixed.reshape(clips.shape), found.reshape(targets.shape)


def _mix_together(
    clips: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    mixup: float,
    cutmix: float,
    axes: CutmixAxes,
) -> tuple[jax.Array, jax.Array]:
    choice, blend_key, box_key = jax.random.split(key, 3)
    other = clips[::-1]
    fraction = jax.random.beta(blend_key, mixup, mixup) if mixup else jnp.ones(())
    mixed = fraction * clips + (1 - fraction) * other
    if cutmix:
        start, stop, left = _random_box(box_key, clips.shape[2:4], cutmix)
        pasted = jnp.where(_inside(start, stop, clips.shape[1:4], axes), other, clips)
        cut = jax.random.bernoulli(choice) if mixup else jnp.array(True)
        mixed = jnp.where(cut, pasted, mixed)
        fraction = jnp.where(cut, left, fraction)
    return mixed, mix_targets(targets, fraction)


def class_targets(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """Returns one-hot targets with label smoothing, float32 [batch, classes].

    Args:
      labels: int [batch].
      classes: number of classes.
      smoothing: probability that is taken from the label's class and spread over all classes.
    """
    return optax.smooth_labels(jax.nn.one_hot(labels, classes), smoothing)


def mix_targets(targets: jax.Array, fraction: jax.Array) -> jax.Array:
    """Returns fraction * targets + (1 - fraction) * targets of the reversed batch.

    Args:
      targets: float32 [batch, classes].
      fraction: scalar from 0 to 1.
    """
    return fraction * targets + (1 - fraction) * targets[::-1]


def cut_box(
    fraction: jax.Array, center: jax.Array, size: Sequence[int]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a box with 1 - `fraction` of the frame's area and its aspect, clipped to the frame.

    Args:
      fraction: fraction of the frame outside of the box before it is clipped, a scalar.
      center: row and column of the box's center, [2].
      size: height and width of the frame.

    Returns:
      First row and column [2], last row and column plus one [2], and the fraction of the frame
      outside of the clipped box.
    """
    whole = jnp.asarray(size, fraction.dtype)
    half = jnp.floor(whole * jnp.sqrt(1 - fraction)) // 2
    start, stop = jnp.clip(center - half, 0, whole), jnp.clip(center + half, 0, whole)
    return start, stop, 1 - (stop - start).prod() / whole.prod()


def _random_box(
    key: jax.Array, size: Sequence[int], cutmix: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    area, place = jax.random.split(key)
    fraction = jax.random.beta(area, cutmix, cutmix)
    whole = jnp.asarray(size, jnp.float32)
    return cut_box(fraction, jnp.floor(jax.random.uniform(place, (2,)) * whole), size)


def _inside(start: jax.Array, stop: jax.Array, shape: Sequence[int], axes: CutmixAxes) -> jax.Array:
    """Returns a box's mask, bool, for clips [batch, frames, height, width, 3]."""
    first = 0 if axes == "time_height" else 1
    rows, columns = (
        (jnp.arange(shape[axis]) >= start[i]) & (jnp.arange(shape[axis]) < stop[i])
        for i, axis in enumerate((first, first + 1))
    )
    box = rows[:, None] & columns[None, :]
    if axes == "time_height":
        return box[None, :, :, None, None]
    return box[None, None, :, :, None]
