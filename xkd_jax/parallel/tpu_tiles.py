"""Tiles of 32-bit values, in which TPUs store arrays and compute."""

from __future__ import annotations

ROWS, LANES = 8, 128


def padded(length: int, tile: int) -> int:
    """Returns the smallest multiple of a tile's side that is not below a length."""
    return -(-length // tile) * tile
