"""RandAugment of clips: the same operations with the same strength on every frame of a clip.

The operations and their strengths are timm's "increasing" set: autocontrast, equalize, invert,
rotate, posterize, solarize, solarize_add, color, contrast, brightness, sharpness, shears and
translations. Statistics of an image (range, histogram, mean) are those of the whole clip, so that
frames do not flicker.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from xkd_jax.parallel.axis_rules import on_each_shard

_PROBABILITY = 0.5  # of applying an operation that was drawn
_SPREAD = 0.5  # standard deviation of the magnitude
_LARGEST = 10.0  # magnitude
_FILL = 128.0  # value outside of the frame
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def rand_augment(pixels: jax.Array, key: jax.Array, operations: int, magnitude: float) -> jax.Array:
    """Applies a number of random operations to each clip.

    Every device processes its clips one by one, so that only the operations that were drawn are
    computed; a batched switch would compute all of them for each clip.

    Args:
      pixels: float32 [batch, frames, size, size, 3] in 0..255.
      key: key of the random numbers.
      operations: number of operations for each clip, drawn with replacement, each applied with
        probability 1/2.
      magnitude: mean strength, 0 to 10.

    Returns:
      The shape and range of `pixels`.
    """
    batch = len(pixels)

    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        which, strength, side, used = jax.random.split(key, 4)
        operation = jax.random.randint(which, (batch,), 0, len(OPERATIONS))
        level = magnitude + _SPREAD * jax.random.normal(strength, (batch,))
        level = jnp.clip(level, 0, _LARGEST) / _LARGEST
        sign = jnp.where(jax.random.bernoulli(side, 0.5, (batch,)), 1.0, -1.0)
        return operation, level, sign, jax.random.bernoulli(used, _PROBABILITY, (batch,))

    def one(clip: jax.Array, drawn: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        *how, used = drawn
        return jax.lax.cond(used, lambda: apply(clip, *how), lambda: clip), None

    def each(pixels: jax.Array, drawn: tuple[jax.Array, ...]) -> jax.Array:
        return jax.lax.map(lambda row: jax.lax.scan(one, *row)[0], (pixels, drawn))

    drawn = jax.vmap(draw, out_axes=1)(jax.random.split(key, operations))  # [batch, operations]
    return on_each_shard(each)(pixels, drawn)


def apply(pixels: jax.Array, operation: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Applies one operation to a clip [frames, height, width, 3].

    Args:
      pixels: float32 in 0..255.
      operation: int32 scalar, an index in `OPERATIONS`.
      level: float32 scalar, the strength from 0 to 1.
      sign: 1 or -1, the direction of operations that have two.

    Returns:
      The shape and range of `pixels`.
    """
    changed = jax.lax.switch(operation, list(_FUNCTIONS.values()), pixels, level, sign)
    return jnp.clip(changed, 0, 255)


def _warp(pixels: jax.Array, rows: list[list[jax.Array | float]]) -> jax.Array:
    """Applies an affine map to every frame, with bilinear interpolation, as PIL.

    Positions outside of the frame get `_FILL`; next to the border its pixels are repeated.

    Args:
      pixels: float32 [frames, height, width, 3].
      rows: rows of the matrix [2, 3] from output to input positions (y, x) about the center.
    """
    frames, height, width = pixels.shape[:3]
    matrix = jnp.stack([jnp.stack([jnp.float32(value) for value in row]) for row in rows])
    size = np.array([[height], [width]], np.float32)
    center = (size - 1) / 2
    grid = jnp.indices((height, width), jnp.float32).reshape(2, -1) - center
    turned = jnp.matmul(matrix[:, :2], grid, precision=jax.lax.Precision.HIGHEST)
    position = turned + matrix[:, 2:] + center
    inside = ((position >= -0.5) & (position < size - 0.5)).all(0)
    first = jnp.floor(position)
    weight = position - first
    flat = pixels.reshape(frames, height * width, 3)
    warped = jnp.zeros_like(flat)
    for down in (0, 1):
        for right in (0, 1):
            y, x = jnp.clip(first + np.array([[down], [right]]), 0, size - 1).astype(jnp.int32)
            fraction = jnp.abs(1 - down - weight[0]) * jnp.abs(1 - right - weight[1])
            warped += fraction[None, :, None] * flat[:, y * width + x]
    return jnp.where(inside[None, :, None], warped, _FILL).reshape(pixels.shape)


def _stretch(pixels: jax.Array) -> jax.Array:
    low, high = (f((0, 1, 2), keepdims=True) for f in (pixels.min, pixels.max))
    return jnp.where(high > low, (pixels - low) * 255 / jnp.maximum(high - low, 1), pixels)


def _equalize(pixels: jax.Array) -> jax.Array:
    """Equalizes the histogram of each channel, with PIL's lookup table."""

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
    """PIL's SMOOTH: a 3 x 3 kernel of ones with 5 in the middle; the border is unchanged."""
    inner = pixels[:, 1:-1, 1:-1]
    height, width = pixels.shape[1:3]
    total = 4 * inner
    for y in range(3):
        for x in range(3):
            total = total + pixels[:, y : height - 2 + y, x : width - 2 + x]
    return pixels.at[:, 1:-1, 1:-1].set(total / 13)


def _solarize(pixels: jax.Array, level: jax.Array) -> jax.Array:
    return jnp.where(pixels < 256 - jnp.floor(256 * level), pixels, 255 - pixels)


def _solarize_add(pixels: jax.Array, level: jax.Array) -> jax.Array:
    return jnp.where(pixels < 128, pixels + jnp.floor(110 * level), pixels)


def _gray(pixels: jax.Array) -> jax.Array:
    return (pixels * _LUMA[None, None, None]).sum(-1, keepdims=True)


def _enhance(pixels: jax.Array, dull: jax.Array | float, amount: jax.Array) -> jax.Array:
    """Extrapolates from `dull` beyond the clip, or interpolates for a negative amount."""
    return dull + (1 + 0.9 * amount) * (pixels - dull)


def _rotate(pixels: jax.Array, amount: jax.Array) -> jax.Array:
    """Rotates frames counterclockwise by `amount` * 30 degrees."""
    angle = jnp.deg2rad(30.0) * amount
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return _warp(pixels, [[cosine, sine, 0], [-sine, cosine, 0]])


def _shear(pixels: jax.Array, x: jax.Array | float, y: jax.Array | float) -> jax.Array:
    height, width = pixels.shape[1:3]
    x, y = 0.3 * x, 0.3 * y
    rows = [[1, y, width / 2 * y], [x, 1, height / 2 * x]]  # relative to the upper left corner
    return _warp(pixels, rows)


def _translate(pixels: jax.Array, x: jax.Array | float, y: jax.Array | float) -> jax.Array:
    height, width = pixels.shape[1:3]
    return _warp(pixels, [[1, 0, 0.45 * height * y], [0, 1, 0.45 * width * x]])


# {name: (pixels, level, sign) -> pixels, not yet clipped}
_FUNCTIONS: dict[str, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]] = {
    "autocontrast": lambda pixels, level, sign: _stretch(pixels),
    "equalize": lambda pixels, level, sign: _equalize(pixels),
    "invert": lambda pixels, level, sign: 255 - pixels,
    "rotate": lambda pixels, level, sign: _rotate(pixels, level * sign),
    "posterize": lambda pixels, level, sign: _posterize(pixels, level),
    "solarize": lambda pixels, level, sign: _solarize(pixels, level),
    "solarize_add": lambda pixels, level, sign: _solarize_add(pixels, level),
    "color": lambda pixels, level, sign: _enhance(pixels, _gray(pixels), level * sign),
    "contrast": lambda pixels, level, sign: _enhance(pixels, _gray(pixels).mean(), level * sign),
    "brightness": lambda pixels, level, sign: _enhance(pixels, 0.0, level * sign),
    "sharpness": lambda pixels, level, sign: _enhance(pixels, _smooth(pixels), level * sign),
    "shear_x": lambda pixels, level, sign: _shear(pixels, level * sign, 0.0),
    "shear_y": lambda pixels, level, sign: _shear(pixels, 0.0, level * sign),
    "translate_x": lambda pixels, level, sign: _translate(pixels, level * sign, 0.0),
    "translate_y": lambda pixels, level, sign: _translate(pixels, 0.0, level * sign),
}
OPERATIONS = tuple(_FUNCTIONS)
