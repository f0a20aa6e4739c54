"""Self-attention as a GPU kernel (Triton) that does not store the scores in main memory.

A program computes a block of rows of one head of one sample. Queries, keys and values are read from
the output of their joint projection, and their gradients are written in this form, so nothing is
sliced, concatenated or padded in memory. Segments are read and written in place too.

Source: Dao et al., "FlashAttention", NeurIPS 2022, algorithms 1 and 4. The gradient is one kernel
without atomic additions: each program computes the gradients of keys and values of its rows, then
those of the queries. The result is the same in each run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

from xkd_jax.networks.remat import KEPT

# Rows of a program, and of the tiles that it reads, by the largest size of a head. Measured on an
# H100 with heads of 32 and 64; with wider ones, more rows do not fit into registers.
_ROWS = {64: 64, 128: 32}
_WARPS = 4
# Triton's smallest axis of a product.
_SMALLEST = 16
# Tiles in flight while one is computed.
_FORWARD_STAGES, _BACKWARD_STAGES = 3, 1


class _Shape(NamedTuple):
    """Static arguments of a kernel; see `gpu_attention`."""

    segments: tuple[int, ...]
    scale: float
    rows: int
    interpret: bool


def gpu_attention(
    qkv: Float[Array, "batch n 3 heads size"],
    segments: tuple[int, ...],
    *,
    rows: int | None = None,
    interpret: bool = False,
) -> Float[Array, "batch n heads size"]:
    """Returns softmax attention within each segment of each sample, with scale size ** -0.5.

    Args:
      qkv: query, key and value of each token, bfloat16.
      segments: numbers of consecutive tokens that attend to each other, with sum n.
      rows: tokens of a tile, a power of 2, at least `_SMALLEST`; None: by the size of a head.
      interpret: whether XLA executes the kernel's operations, on any platform.

    Returns:
      An array of the same dtype.
    """
    size = qkv.shape[-1]
    lanes = max(_SMALLEST, pl.next_power_of_2(size))
    rows = rows or next(n for largest, n in _ROWS.items() if size <= largest)
    padded = checkpoint_name(jnp.pad(qkv, [(0, 0)] * 4 + [(0, lanes - size)]), KEPT)
    out = _attention(padded, _Shape(segments, size**-0.5, rows, interpret))
    return checkpoint_name(out, KEPT)[..., :size]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attention(qkv: jax.Array, shape: _Shape) -> jax.Array:
    return _forward(qkv, shape)[0]


def _forward(qkv: jax.Array, shape: _Shape) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    batch, n, _, heads, size = qkv.shape
    out, total = _call(
        _forward_kernel, (qkv,), shape, _FORWARD_STAGES,
        out_shape=(
            jax.ShapeDtypeStruct((batch, n, heads, size), qkv.dtype),
            jax.ShapeDtypeStruct((batch, heads, n), jnp.float32),
        ),
    )  # fmt: skip
    out, total = checkpoint_name(out, KEPT), checkpoint_name(total, KEPT)
    return out, (qkv, out, total)


def _backward(shape: _Shape, kept: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array]:
    qkv = kept[0]
    like = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    gradient = _call(_backward_kernel, (*kept, cotangent), shape, _BACKWARD_STAGES, out_shape=like)
    return (gradient,)


_attention.defvjp(_forward, _backward)


def _call(
    kernel: Callable[..., None],
    arguments: tuple[jax.Array, ...],
    shape: _Shape,
    stages: int,
    out_shape: Any,
) -> Any:
    """Runs a kernel for all blocks of rows, heads and samples."""
    batch, _, _, heads, size = arguments[0].shape
    blocks = sum(pl.cdiv(n, shape.rows) for n in shape.segments)
    products = 2 if kernel is _forward_kernel else 7
    scores = sum(n * n for n in shape.segments)
    with set_xla_metadata(flops=products * 2 * batch * heads * scores * size):
        return pl.pallas_call(
            functools.partial(kernel, shape=shape),
            out_shape=out_shape,
            grid=(blocks, heads, batch),
            compiler_params=plt.CompilerParams(num_warps=_WARPS, num_stages=stages),
            interpret=shape.interpret,
            name=kernel.__name__.strip("_"),
        )(*arguments)


class _Program:
    """The rows, head and sample of a program, and access to arrays in tiles of rows.

    first: its first row.
    start, stop: the rows of its segment.
    """

    def __init__(self, shape: _Shape):
        block = pl.program_id(0)
        self.head, self.sample = pl.program_id(1), pl.program_id(2)
        self.shape = shape
        blocks = begin = 0
        self.first = self.start = self.stop = jnp.int32(0)
        for n in shape.segments:
            here = (block >= blocks).astype(jnp.int32)
            self.first += here * (begin + (block - blocks) * shape.rows - self.first)
            self.start += here * (begin - self.start)
            self.stop += here * (begin + n - self.stop)
            blocks, begin = blocks + pl.cdiv(n, shape.rows), begin + n

    def inside(self, first: Any) -> Any:
        """Which rows of the tile that begins at `first` belong to the segment."""
        return first + jnp.arange(self.shape.rows) < self.stop

    def read(self, ref: Any, first: Any, part: int | None = None) -> Any:
        """Reads a tile [rows, size]; 0 outside of the segment.

        Args:
          ref: [batch, n, heads, size], or with an axis of query, key and value before the heads.
          first: its first row.
          part: index of query, key or value.
        """
        place, mask = self._tile(ref, first, part)
        return plt.load(place, mask=mask, other=0.0)

    def write(self, ref: Any, tile: Any, part: int | None = None) -> None:
        """Writes a tile to the program's own rows."""
        place, mask = self._tile(ref, self.first, part)
        plt.store(place, tile.astype(ref.dtype), mask=mask)

    def row(self, ref: Any, first: Any) -> Any:
        """The place of a number for each row, in an array [batch, heads, n]."""
        return ref.at[self.sample, self.head, pl.ds(first, self.shape.rows)]

    def over_tiles(self, step: Callable[[Any, Any], Any], initial: Any) -> Any:
        """Returns the last result of step(first row of a tile, previous result)."""
        rows = self.shape.rows
        tiles = (self.stop - self.start + rows - 1) // rows
        return jax.lax.fori_loop(
            0, tiles, lambda i, carry: step(self.start + i * rows, carry), initial
        )

    def _tile(self, ref: Any, first: Any, part: int | None) -> tuple[Any, Any]:
        parts = () if part is None else (jnp.int32(part),)
        rows = pl.ds(first, self.shape.rows)
        tile = ref.at[(self.sample, rows, *parts, self.head, slice(None))]
        return tile, jnp.broadcast_to(self.inside(first)[:, None], tile.shape)


def _forward_kernel(qkv_ref: Any, out_ref: Any, total_ref: Any, *, shape: _Shape) -> None:
    """Also writes the binary logarithm of the softmax's sum of each row."""
    own = _Program(shape)
    query = own.read(qkv_ref, own.first, 0)

    def step(first: Any, carry: Any) -> Any:
        out, largest, total = carry
        key, value = own.read(qkv_ref, first, 1), own.read(qkv_ref, first, 2)
        scores = plt.dot(query, key, trans_b=True) * _to_binary(shape)
        scores = jnp.where(own.inside(first)[None], scores, -jnp.inf)
        peak = jnp.maximum(largest, scores.max(1))
        weights = jnp.exp2(scores - peak[:, None])
        shrink = jnp.exp2(largest - peak)
        out = out * shrink[:, None] + plt.dot(weights.astype(value.dtype), value)
        return out, peak, total * shrink + weights.sum(1)

    zeros = jnp.zeros(shape.rows, jnp.float32)
    initial = (jnp.zeros(query.shape, jnp.float32), zeros - jnp.inf, zeros)
    out, largest, total = own.over_tiles(step, initial)
    own.write(out_ref, out / total[:, None])
    plt.store(own.row(total_ref, own.first), largest + jnp.log2(total), mask=own.inside(own.first))


def _backward_kernel(
    qkv_ref: Any, out_ref: Any, total_ref: Any, cotangent_ref: Any, gradient_ref: Any,
    *, shape: _Shape,
) -> None:  # fmt: skip
    own = _Program(shape)
    to_binary = _to_binary(shape)

    def of_queries(first: Any) -> Any:
        """Queries, cotangents, softmax's sums, and products of results and cotangents."""
        query, cotangent = own.read(qkv_ref, first, 0), own.read(cotangent_ref, first)
        out = own.read(out_ref, first).astype(jnp.float32)
        total = plt.load(own.row(total_ref, first), mask=own.inside(first), other=0.0)
        return query, cotangent, total, (cotangent.astype(jnp.float32) * out).sum(1)

    key, value = own.read(qkv_ref, own.first, 1), own.read(qkv_ref, own.first, 2)

    def over_queries(first: Any, carry: Any) -> Any:
        of_key, of_value = carry
        query, cotangent, total, along = of_queries(first)
        weights = jnp.exp2(plt.dot(key, query, trans_b=True) * to_binary - total[None])
        of_value += plt.dot(weights.astype(query.dtype), cotangent)
        of_scores = weights * (plt.dot(value, cotangent, trans_b=True) - along[None])
        return of_key + plt.dot(of_scores.astype(query.dtype), query), of_value

    zeros = jnp.zeros(key.shape, jnp.float32)
    of_key, of_value = own.over_tiles(over_queries, (zeros, zeros))
    own.write(gradient_ref, of_key * shape.scale, 1)
    own.write(gradient_ref, of_value, 2)

    query, cotangent, total, along = of_queries(own.first)

    def over_keys(first: Any, of_query: Any) -> Any:
        key, value = own.read(qkv_ref, first, 1), own.read(qkv_ref, first, 2)
        scores = plt.dot(query, key, trans_b=True) * to_binary
        # rows of zeros outside of the segment could have infinite weights
        scores = jnp.where(own.inside(first)[None], scores, -jnp.inf)
        weights = jnp.exp2(scores - total[:, None])
        of_scores = weights * (plt.dot(cotangent, value, trans_b=True) - along[:, None])
        return of_query + plt.dot(of_scores.astype(query.dtype), key)

    of_query = own.over_tiles(over_keys, zeros)
    own.write(gradient_ref, of_query * shape.scale, 0)


def _to_binary(shape: _Shape) -> float:
    """Scale of scores, times the factor from natural to binary logarithms."""
    return shape.scale * math.log2(math.e)
