"""Color jitter of planes [3, B, T, S, S] in 0..255, with random numbers for each sample.

Brightness, contrast and saturation are a blend, factor * x + (1 - factor) * reference, clamped to
0..255; the reference is black, the frame's mean gray, or each pixel's gray. Hue is a rotation in
HSV. This is torchvision's ColorJitter (on tensors), in the order drawn for each sample.

The operations are compiled as one function of a pixel, which is run twice: before contrast, for the
mean of its frame, and for the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# Rec. 601 luma, as PIL's "L" and torchvision's rgb_to_grayscale.
_LUMA = (0.299, 0.587, 0.114)
# Values of `order`.
BLENDS = ("brightness", "contrast", "saturation")
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
OPERATIONS = 4

# Red, green and blue, [B, T, S, S] each.
_Planes = Sequence[jax.Array] | jax.Array


def gray(pixels: _Planes) -> jax.Array:
    """Returns the luma [B, T, S, S] of planes [3, B, T, S, S]."""
    red, green, blue = pixels
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def to_gray(pixels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Converts planes [3, B, T, S, S] of the samples `chosen`, bool [B], to gray."""
    return jnp.where(_per_sample(chosen)[None], gray(pixels)[None], pixels)


def jitter(pixels: jax.Array, view: dict[str, jax.Array]) -> jax.Array:
    """Applies brightness, contrast, saturation and hue, in the order of `view["order"]`.

    Args:
      pixels: float32 [3, B, T, S, S] in 0..255.
      view: `order`, int32 [B, 4], and those of the factors `brightness`, `contrast`, `saturation`
        and of `hue` (in turns) that apply, float32 [B].

    Returns:
      The shape and range of `pixels`.
    """
    if "order" not in view:
        return pixels
    mean = jnp.zeros((*pixels.shape[1:3], 1, 1), pixels.dtype)
    if "contrast" in view:
        before = _apply(pixels, view, mean, _place_of(CONTRAST, view))
        mean = gray(before).mean(axis=(-2, -1), keepdims=True)
    return jnp.stack(_apply(pixels, view, mean, jnp.full(len(view["order"]), OPERATIONS)))


def _place_of(operation: int, view: dict[str, jax.Array]) -> jax.Array:
    """Returns the place of an operation in each sample's order, int32 [B]."""
    return jnp.argmax(view["order"] == operation, axis=1)


def _apply(pixels: _Planes, view: dict[str, jax.Array], mean: jax.Array, end: jax.Array) -> _Planes:
    """Applies each sample's operations whose place in its order is before `end`, int32 [B].

    Blends may come before or after hue, so each blend is computed in both places, in one of them
    with factor 1. The barriers are for CPUs: without them, XLA computes all blends again for each
    color of the hue.

    Args:
      pixels: planes.
      view: see `jitter`.
      mean: mean gray of each frame at the contrast, [B, T, 1, 1].
      end: place of the first operation that is not applied.
    """
    turned_at = _place_of(HUE, view)
    for place in range(OPERATIONS - 1):
        pixels = _blend(pixels, view, mean, place, (place < turned_at) & (place < end))
    pixels = jax.lax.optimization_barrier(pixels)
    if "hue" in view:
        chosen = _per_sample(turned_at < end)
        turned = rotate_hue(pixels, _per_sample(view["hue"]))
        pixels = [jnp.where(chosen, t, p) for t, p in zip(turned, pixels, strict=True)]
    pixels = jax.lax.optimization_barrier(pixels)
    for place in range(1, OPERATIONS):
        pixels = _blend(pixels, view, mean, place, (place > turned_at) & (place < end))
    return pixels


def _blend(
    pixels: _Planes, view: dict[str, jax.Array], mean: jax.Array, place: int, active: jax.Array
) -> _Planes:
    """Blends with the reference of the operation at a place of the order, in `active` samples."""
    operation = view["order"][:, place]
    factor = jnp.ones(len(operation), jnp.float32)
    for number, name in enumerate(BLENDS):
        if name in view:
            factor = jnp.where(active & (operation == number), view[name], factor)
    reference = jnp.where(_per_sample(operation == CONTRAST), mean, 0)
    if "saturation" in view:
        reference = jnp.where(_per_sample(operation == SATURATION), gray(pixels), reference)
    weight = _per_sample(factor)
    return blend(pixels, weight, reference)


def blend(pixels: _Planes, factor: jax.Array, reference: jax.Array | float) -> _Planes:
    """Returns factor * planes + (1 - factor) * reference, clamped to 0..255.

    Args:
      pixels: red, green and blue.
      factor: broadcasts with a plane, as `reference`.
      reference: black, a gray, or each pixel's gray.
    """
    return [jnp.clip(factor * p + (1 - factor) * reference, 0, 255) for p in pixels]


def rotate_hue(pixels: _Planes, turns: jax.Array) -> _Planes:
    """Rotates the hue by `turns` of the color circle; value and chroma are unchanged.

    Args:
      pixels: red, green and blue, float32 in 0..255, of any shape.
      turns: float32, broadcasts with a plane.

    Returns:
      The three planes.
    """
    red, green, blue = pixels
    value = jnp.maximum(jnp.maximum(red, green), blue)
    low = jnp.minimum(jnp.minimum(red, green), blue)
    chroma = value - low
    scale = 1 / jnp.where(chroma > 0, chroma, 1)
    # Not `value == red`: XLA may compute `red` a second time for `value`, with another rounding. If
    # two colors are both the largest, both cases give the same hue.
    sextant = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) * scale,
        jnp.where(green >= blue, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    sextant = sextant + 6 * turns

    def channel(offset: float) -> jax.Array:
        k = sextant + offset
        k = k - 6 * jnp.floor(k / 6)  # jnp.mod calls the C library for every pixel on a CPU
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return [channel(5), channel(3), channel(1)]


def _per_sample(values: jax.Array) -> jax.Array:
    """Reshapes [B] to [B, 1, 1, 1], to broadcast with [B, T, S, S]."""
    return values[:, None, None, None]
