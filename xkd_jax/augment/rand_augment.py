"""RandAugment of clips: the same operations, by the same amount, on every frame of a clip.

The operations and their strengths are those of timm's "increasing" set: autocontrast, equalize,
invert, rotate, posterize, solarize, solarize_add, colour, contrast, brightness, sharpness, shears
and translations. What depends on an image's own values (its range, histogram, mean) is taken over
the whole clip, as a clip that changes from frame to frame would flicker.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

OPERATIONS = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("colour", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)
_PROBABILITY = 0.5  # that an operation, once drawn, is applied
_SPREAD = 0.5  # standard deviation of the magnitude
_LARGEST = 10.0
_FILL = 128.0  # outside of the frame
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def rand_augment(pixels: jax.Array, key: jax.Array, operations: int, magnitude: float) -> jax.Array:
    """Applies a number of random operations to each clip.

    Args:
      pixels: float32 [batch, frames, size, size, 3] in 0..255.
      key: decides all.
      operations: how many a clip, drawn with replacement, each applied with probability 1/2.
      magnitude: of 0 to 10, the mean strength.

    Returns:
      The shape and range of `pixels`.
    """
    batch = len(pixels)

    def layer(pixels: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        which, strength, side, used = jax.random.split(key, 4)
        operation = jax.random.randint(which, (batch,), 0, len(OPERATIONS))
        level = magnitude + _SPREAD * jax.random.normal(strength, (batch,))
        level = jnp.clip(level, 0, _LARGEST) / _LARGEST
        sign = jnp.where(jax.random.bernoulli(side, 0.5, (batch,)), 1.0, -1.0)
        changed = jax.vmap(apply)(pixels, operation, level, sign)
        applied = jax.random.bernoulli(used, _PROBABILITY, (batch, 1, 1, 1, 1))
        return jnp.where(applied, changed, pixels), None

    return jax.lax.scan(layer, pixels, jax.random.split(key, operations))[0]


def apply(pixels: jax.Array, operation: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Applies one operation to a clip [frames, size, size, 3].

    Args:
      pixels: float32 in 0..255.
      operation: index in `OPERATIONS`.
      level: strength of 0 to 1.
      sign: 1 or -1, the direction of what has two.
    """
    moved = _warp(pixels, _inverse_map(operation, level * sign, pixels.shape[1]))
    factor = 1 + 0.9 * level * sign
    grey = (pixels * _LUMA).sum(-1, keepdims=True)
    tones = {
        "autocontrast": _stretch(pixels),
        "equalize": _equalize(pixels),
        "invert": 255 - pixels,
        "posterize": _posterize(pixels, level),
        "solarize": jnp.where(pixels < 256 - jnp.floor(256 * level), pixels, 255 - pixels),
        "solarize_add": jnp.where(pixels < 128, pixels + jnp.floor(110 * level), pixels),
        "colour": grey + factor * (pixels - grey),
        "contrast": grey.mean() + factor * (pixels - grey.mean()),
        "brightness": factor * pixels,
        "sharpness": (smooth := _smooth(pixels)) + factor * (pixels - smooth),
    }
    chosen = [operation == OPERATIONS.index(name) for name in tones]
    return jnp.clip(jnp.select(chosen, list(tones.values()), moved), 0, 255)


def _inverse_map(operation: jax.Array, amount: jax.Array, size: int) -> jax.Array:
    """The matrix [2, 3] from output to input (y, x), about the centre; of others, the identity."""

    def if_drawn(name: str, value: jax.Array) -> jax.Array:
        return jnp.where(operation == OPERATIONS.index(name), value, 0.0)

    angle = if_drawn("rotate", jnp.deg2rad(30.0) * amount)
    shear_x, shear_y = (if_drawn(f"shear_{axis}", 0.3 * amount) for axis in "xy")
    shift_x, shift_y = (if_drawn(f"translate_{axis}", 0.45 * size * amount) for axis in "xy")
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack(
        [
            jnp.stack([cosine, -sine + shear_y, shift_y]),
            jnp.stack([sine + shear_x, cosine, shift_x]),
        ]
    )


def _warp(pixels: jax.Array, matrix: jax.Array) -> jax.Array:
    """Reads every frame at the mapped positions, linearly; `_FILL` outside."""
    frames, size = pixels.shape[:2]
    centre = (size - 1) / 2
    grid = jnp.indices((size, size), jnp.float32).reshape(2, -1) - centre
    position = matrix[:, :2] @ grid + matrix[:, 2:] + centre
    first = jnp.floor(position)
    weight = position - first
    flat = pixels.reshape(frames, size * size, 3)
    warped = jnp.zeros_like(flat)
    for down in (0, 1):
        for right in (0, 1):
            y, x = (first + jnp.array([[down], [right]])).astype(jnp.int32)
            inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
            at = jnp.clip(y, 0, size - 1) * size + jnp.clip(x, 0, size - 1)
            share = jnp.abs(1 - down - weight[0]) * jnp.abs(1 - right - weight[1])
            warped += share[:, None] * jnp.where(inside[:, None], flat[:, at], _FILL)
    return warped.reshape(pixels.shape)


def _stretch(pixels: jax.Array) -> jax.Array:
    low, high = pixels.min((0, 1, 2)), pixels.max((0, 1, 2))
    return jnp.where(high > low, (pixels - low) * 255 / jnp.maximum(high - low, 1), pixels)


def _equalize(pixels: jax.Array) -> jax.Array:
    """Spreads each channel's values evenly, by PIL's rule for the table."""

    def channel(values: jax.Array) -> jax.Array:
        codes = jnp.clip(jnp.round(values), 0, 255).astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[codes.reshape(-1)].add(1)
        last = counts[255 - jnp.argmax(counts[::-1] > 0)]
        step = (counts.sum() - last) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[codes].astype(jnp.float32), values)

    return jnp.stack([channel(pixels[..., c]) for c in range(3)], axis=-1)


def _posterize(pixels: jax.Array, level: jax.Array) -> jax.Array:
    """Keeps the highest 4 - floor(4 * level) bits."""
    unit = jnp.exp2(8 - (4 - jnp.floor(4 * level)))
    return jnp.floor(pixels / unit) * unit


def _smooth(pixels: jax.Array) -> jax.Array:
    """PIL's SMOOTH: 3 x 3 with 5 in the middle; the border stays."""
    inner = pixels[:, 1:-1, 1:-1]
    size = pixels.shape[1]
    total = 4 * inner
    for y in range(3):
        for x in range(3):
            total = total + pixels[:, y : size - 2 + y, x : size - 2 + x]
    return pixels.at[:, 1:-1, 1:-1].set(total / 13)
