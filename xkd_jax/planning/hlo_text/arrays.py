"""Arrays in XLA's text: dtype, shape, layout, and the bytes that they occupy."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Literal

Platform = Literal["cpu", "gpu", "tpu"]


class UnknownTextError(ValueError):
    """A part of a program's text that this version of XLA writes in an unknown way."""


# Bytes of one element.
_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0,
}  # fmt: skip

# Memory spaces besides the main memory, which is 0. TPU: vector memory, synchronization flags,
# scalar memory, and 8, the flags of calls on a SparseCore. A GPU's 1 is the part of its main memory
# that collectives use.
_FAST: dict[Platform, set[int]] = {"cpu": set(), "gpu": set(), "tpu": {1, 2, 3, 4, 6, 8}}
_MAIN: dict[Platform, set[int]] = {"cpu": {0}, "gpu": {0, 1}, "tpu": {0}}

_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{([^}]*)\})?")
_TILE = re.compile(r"\(([0-9,*]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of the program on one device.

    bytes: memory that it occupies, with the padding of its tiles.
    fast: whether it is in memory on the chip, not in main memory.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: float
    fast: bool = False


def arrays(text: str, platform: Platform) -> Iterator[Array]:
    """Yields the arrays of a type, which may be a tuple of types.

    Raises:
      UnknownTextError: of a dtype, size or memory that is unknown.
    """
    for dtype, shape, layout in _ARRAY.findall(text):
        if dtype not in _BYTES or "<" in shape:
            raise UnknownTextError(f"the array {dtype}[{shape}]")
        sizes = tuple(int(n) for n in shape.split(",")) if shape else ()
        order, _, tiling = layout.partition(":")
        elements = math.prod(sizes)
        if "T(" in tiling:
            elements = _padded(sizes, order, tiling)
        found = _SPACE.search(tiling)
        space = int(found[1]) if found else 0
        if space not in _FAST[platform] | _MAIN[platform]:
            raise UnknownTextError(f"the memory S({space}) of an array")
        yield Array(dtype, sizes, _BYTES[dtype] * elements, fast=space in _FAST[platform])


@functools.cache
def _padded(sizes: tuple[int, ...], order: str, tiling: str) -> int:
    """Number of elements with the padding of tiles.

    Each tile divides the last axes, in physical order, that remain after the tiles before it, into
    numbers of tiles and axes within a tile: (8,128)(2,1) has pairs of rows in tiles of 8 rows.

    Args:
      sizes: the shape.
      order: axes from the one that changes fastest, `2,1,0`.
      tiling: `T(8,128)(2,1)S(1)`.
    """
    axes = [int(n) for n in order.split(",")] if order else []
    shape = [sizes[axis] for axis in reversed(axes)]
    text = tiling[tiling.index("T(") + 1 :]
    while found := _TILE.match(text):
        if "*" in found[1]:
            raise UnknownTextError(f"the tiles {tiling}")
        tile = [int(n) for n in found[1].split(",")]
        shape = [1] * (len(tile) - len(shape)) + shape
        inner = shape[-len(tile) :]
        tiles = [-(-size // part) for size, part in zip(inner, tile, strict=True)]
        shape = shape[: -len(tile)] + tiles + tile
        text = text[found.end() :]
    return math.prod(shape)
