"""Color jitter of planes [3, B, T, S, S] in 0..255, with random numbers for each sample.

Brightness, contrast and saturation are a blend, factor * x + (1 - factor) * reference, clamped to
0..255; the reference is black, the frame's mean gray, or each pixel's gray. Hue is a rotation in
HSV. This is torchvision's ColorJitter (on tensors), in the order drawn for each sample.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Rec. 601 luma, as PIL's "L" and torchvision's rgb_to_grayscale.
_LUMA = (0.299, 0.587, 0.114)
# Values of `order`.
_BLENDS = ("brightness", "contrast", "saturation")
_CONTRAST, _SATURATION, _HUE = 1, 2, 3


def gray(pixels: jax.Array) -> jax.Array:
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
    one = jnp.ones(len(view["order"]), jnp.float32)
    factors = jnp.stack([*(view.get(name, one) for name in _BLENDS), one], axis=-1)

    def apply(pixels: jax.Array, operation: jax.Array) -> tuple[jax.Array, None]:
        """Applies one operation to each sample, [B] values of `order`."""
        factor = jnp.take_along_axis(factors, operation[:, None], axis=1)[:, 0]
        changed = _blend(pixels, operation, factor, view)
        if "hue" in view:
            turned = rotate_hue(pixels, view["hue"])
            changed = jnp.where(_per_sample(operation == _HUE)[None], turned, changed)
        return changed, None

    return jax.lax.scan(apply, pixels, view["order"].T)[0]


def _blend(
    pixels: jax.Array, operation: jax.Array, factor: jax.Array, view: dict[str, jax.Array]
) -> jax.Array:
    """Blends each sample with the reference of its operation; a factor of 1 changes nothing."""
    reference = jnp.zeros_like(pixels[0])
    if "contrast" in view:
        mean = gray(pixels).mean(axis=(-2, -1), keepdims=True)
        reference = jnp.where(_per_sample(operation == _CONTRAST), mean, reference)
    if "saturation" in view:
        reference = jnp.where(_per_sample(operation == _SATURATION), gray(pixels), reference)
    weight = _per_sample(factor)[None]
    return jnp.clip(weight * pixels + (1 - weight) * reference[None], 0, 255)


def rotate_hue(pixels: jax.Array, turns: jax.Array) -> jax.Array:
    """Rotates the hue by `turns` of the color circle; value and chroma are unchanged.

    Args:
      pixels: float32 [3, B, T, S, S] in 0..255.
      turns: float32 [B].
    """
    red, green, blue = pixels
    value, low = pixels.max(axis=0), pixels.min(axis=0)
    chroma = value - low
    scale = 1 / jnp.where(chroma > 0, chroma, 1)
    sextant = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    sextant = sextant + 6 * _per_sample(turns)

    def channel(offset: float) -> jax.Array:
        k = sextant + offset
        k = k - 6 * jnp.floor(k / 6)  # jnp.mod calls the C library for every pixel on a CPU
        return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)])


def _per_sample(values: jax.Array) -> jax.Array:
    """Reshapes [B] to [B, 1, 1, 1], to broadcast with [B, T, S, S]."""
    return values[:, None, None, None]
