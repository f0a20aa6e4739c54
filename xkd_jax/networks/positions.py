"""Interpolation of learned positions to another grid.

Resizing is one matrix product over all axes; the matrix is computed with NumPy while tracing.
Coordinates are those of PyTorch's `interpolate` with an explicit scale factor, align_corners=False
and no antialiasing, as in the released code.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from data_pipelines.loader_config import Interpolation

CUBIC_A = -0.75


def resize_positions(
    positions: Float[Array, "embedded width"],
    grid: tuple[int, ...],
    new_grid: tuple[int, ...],
    methods: tuple[Interpolation | None, ...],
) -> Float[Array, "resized width"]:
    """Resizes positions [special + prod(grid), width] to [special + prod(new_grid), width].

    Args:
      positions: those of special tokens, such as CLS, first; they are not changed.
      grid: tokens along each axis.
      new_grid: tokens of the result along each axis; equal grids return `positions`.
      methods: interpolation along each axis; None: the axis keeps its size.
    """
    if grid == new_grid:
        return positions
    special = len(positions) - math.prod(grid)
    axes = (
        resize_matrix(old, new, method) if method else np.eye(old)
        for old, new, method in zip(grid, new_grid, methods, strict=True)
    )
    matrix = jnp.asarray(functools.reduce(np.kron, axes), positions.dtype)
    table = jnp.matmul(matrix, positions[special:], precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([positions[:special], table])


@functools.cache
def resize_matrix(old: int, new: int, method: Interpolation) -> np.ndarray:
    """Returns the float64 matrix [new, old] that resizes one axis.

    The scale factor is (new + 0.1) / old, as in the released code, and output i samples
    (i + 0.5) / scale - 0.5. Taps outside of the axis use its border.
    """
    source = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    if method == "linear":
        source = np.maximum(source, 0)
    first = np.floor(source).astype(int)
    fraction = source - first
    matrix = np.zeros((new, old))
    for offset, weight in _taps(fraction, method):
        np.add.at(matrix, (np.arange(new), np.clip(first + offset, 0, old - 1)), weight)
    return matrix


def _taps(fraction: np.ndarray, method: Interpolation) -> list[tuple[int, np.ndarray]]:
    if method == "linear":
        return [(0, 1 - fraction), (1, fraction)]
    return [(offset, _cubic(fraction - offset)) for offset in (-1, 0, 1, 2)]


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.75."""
    x, a = np.abs(distance), CUBIC_A
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
