"""Patches of videos as a TPU kernel.

A row of a patch's pixels is a few lanes of a row of the video, and its rows become adjacent lanes.
XLA would move them by several transpositions of the whole array.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from xkd_jax.parallel.devices import vector_memory
from xkd_jax.parallel.tpu_tiles import LANES, ROWS, padded

# Bytes of vector memory beside the blocks.
_SPARE = 2 * 2**20


def is_supported(device: Any, shape: tuple[int, ...], patch: tuple[int, ...]) -> bool:
    """Whether a TPU can cut videos into patches by the kernel.

    Args:
      device: a `jax.Device` or `jax.sharding.AbstractDevice`.
      shape: batch, frames, height, width and colors.
      patch: sides of a patch.
    """
    whole_lanes = LANES % patch[2] == 0 and math.prod(patch) % LANES == 0
    return whole_lanes and _memory(shape[1:4], patch) <= vector_memory(device)


def tpu_patches(
    videos: Float[Array, "batch color frames height width"],
    patch: tuple[int, ...],
    *,
    interpret: bool = False,
) -> Float[Array, "batch tokens values"]:
    """Returns `patchify` of videos whose colors are the second axis, float32.

    Args:
      videos: videos, float32.
      patch: sides of a patch, divisors of the video's sizes; see `is_supported`.
      interpret: whether XLA executes the kernel's operations, on any platform.
    """
    batch, colors, *sizes = videos.shape
    values = math.prod(patch)
    tokens = math.prod(sizes) // values
    return pl.pallas_call(
        functools.partial(_kernel, patch=patch),
        out_shape=jax.ShapeDtypeStruct((batch, tokens, colors * values), videos.dtype),
        grid=(batch, colors),
        in_specs=[pl.BlockSpec((1, 1, *sizes), lambda b, c: (b, c, 0, 0, 0))],
        out_specs=pl.BlockSpec((1, tokens, values), lambda b, c: (b, 0, c)),
        scratch_shapes=[
            pltpu.VMEM((padded(sizes[2], LANES) // LANES, patch[0] * sizes[1], LANES), jnp.float32),
            pltpu.VMEM((values // LANES, tokens, LANES), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"),
            vmem_limit_bytes=_memory(tuple(sizes), patch),
        ),
        cost_estimate=pl.CostEstimate(
            flops=0, transcendentals=0, bytes_accessed=2 * videos.size * videos.dtype.itemsize
        ),
        interpret=interpret,
        name="cut_patches",
    )(videos)


def _memory(sizes: tuple[int, ...], patch: tuple[int, ...]) -> int:
    """Returns the bytes that the kernel needs for videos of these sizes."""
    frames, height, width = sizes
    plane = padded(height, ROWS) * padded(width, LANES)
    patches = padded(math.prod(sizes) // math.prod(patch), ROWS) * math.prod(patch)
    # two blocks of a color's planes and patches, and the scratch memory
    return 4 * (2 * (frames * plane + patches) + patch[0] * plane + patches) + _SPARE


def _kernel(
    videos_ref: Any, patches_ref: Any, planes_ref: Any, tiles_ref: Any, *, patch: tuple[int, ...]
) -> None:
    _, _, frames, height, width = videos_ref.shape
    times, side, length = patch
    down, along = height // side, width // length
    lefts = range(0, width, LANES)
    tiles = range(0, math.prod(patch), LANES)

    def cut(time: Any, _: None) -> None:
        for i in range(times):
            for j, left in enumerate(lefts):
                right = min(left + LANES, width)
                planes_ref[j, i * height : (i + 1) * height, : right - left] = videos_ref[
                    0, 0, time * times + i, :, left:right
                ]
        for i, tile in enumerate(tiles):
            lines = range(tile // length, (tile + LANES) // length)
            for j, left in enumerate(lefts):
                rows = [
                    planes_ref.at[j][pl.ds(frame * height + y, down, stride=side), :]
                    for frame, y in (divmod(line, side) for line in lines)
                ]
                columns = _exchanged(rows, length)[: (width - left) // length]
                for x, column in enumerate(columns, left // length):
                    first = time * down * along + x
                    tiles_ref.at[i][pl.ds(first, down, stride=along), :] = column

    jax.lax.fori_loop(0, frames // times, cut, None)
    for i, tile in enumerate(tiles):
        patches_ref[0, :, tile : tile + LANES] = tiles_ref[i]


def _exchanged(arrays: list[jax.Array], length: int) -> list[jax.Array]:
    """Transposes a matrix of groups of lanes, a row of which is an array.

    Args:
      arrays: 128 / length arrays [rows, 128].
      length: lanes of a group.
    """
    arrays = list(arrays)
    group = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1) // length
    step = len(arrays) // 2
    while step:
        upper = (group & step) != 0
        for i in (i for i in range(len(arrays)) if not i & step):
            low, high = arrays[i], arrays[i + step]
            shift = step * length
            arrays[i] = jnp.where(upper, pltpu.roll(high, shift, 1), low)
            arrays[i + step] = jnp.where(upper, high, pltpu.roll(low, LANES - shift, 1))
        step //= 2
    return arrays
