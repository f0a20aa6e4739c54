"""Self-attention as a TPU kernel that does not store the scores in main memory.

A grid step processes one or a few samples with all tokens, in the layout of the projection's
output, without transposition, head by head. Matrix products have 128 lanes; smaller heads share
them: a head's query is 0 in the other heads' lanes, and the results of these lanes are not stored.
The gradient computes the attention weights again from query, key and the logarithm of the softmax's
sum of each row.

Source of the gradient's formula: Dao et al., "FlashAttention", NeurIPS 2022, appendix B.2.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from xkd_jax.networks.remat import KEPT
from xkd_jax.parallel.kernel_products import (
    COLUMNS_BY_COLUMNS,
    ROWS_BY_COLUMNS,
    ROWS_BY_ROWS,
    product,
)

_LANES = 128
# Largest number of tokens of a grid step with several samples.
_TOKENS = 512
# Largest number of heads per loop iteration, which the compiler interleaves.
_INTERLEAVED = 4
# Number of arrays of the scores' size that a head needs at once, and bytes for everything else.
_SCORES, _SPARE = 8, 8 * 2**20


class _Shape(NamedTuple):
    """Static arguments of a kernel; see `tpu_attention`."""

    heads: int
    size: int
    segments: tuple[int, ...]
    interpret: bool

    @property
    def scores(self) -> int:
        """Number of scores of one head of one sample."""
        return sum(n * n for n in self.segments)

    @property
    def rows(self) -> list[slice]:
        """Rows of each segment."""
        ends = itertools.accumulate(self.segments)
        return [slice(end - n, end) for n, end in zip(self.segments, ends, strict=True)]


def tpu_attention(
    qkv: Float[Array, "batch n 3 heads size"],
    segments: tuple[int, ...],
    *,
    interpret: bool = False,
) -> Float[Array, "batch n heads size"]:
    """Returns softmax attention within each segment of each sample, with scale size ** -0.5.

    Args:
      qkv: query, key and value of each token, bfloat16 or float32.
      segments: numbers of consecutive tokens that attend to each other, with sum n.
      interpret: whether XLA executes the kernel's operations, on any platform.

    Returns:
      An array of the same dtype.
    """
    batch, n, _, heads, size = qkv.shape
    # padded to whole groups of lanes; the heads of zeros are not computed
    unused = next(i for i in range(_LANES) if (heads + i) * size % _LANES == 0)
    padded = jnp.pad(qkv, [(0, 0)] * 3 + [(0, unused), (0, 0)])
    # saved in rows, the product's layout: with other axes last, the compiler would transpose them
    rows = checkpoint_name(padded.reshape(batch, n, -1), KEPT)
    flat = checkpoint_name(_attention(rows, _Shape(heads, size, segments, interpret)), KEPT)
    return flat.reshape(batch, n, heads + unused, size)[:, :, :heads]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attention(qkv: jax.Array, shape: _Shape) -> jax.Array:
    return _call(_forward_kernel, (qkv,), (_attended(qkv),), shape)[0]


def _forward(qkv: jax.Array, shape: _Shape) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    totals = jax.ShapeDtypeStruct((*qkv.shape[:2], _LANES), jnp.float32)
    out, total = _call(_forward_kernel, (qkv,), (_attended(qkv), totals), shape)
    out, total = checkpoint_name(out, KEPT), checkpoint_name(total, KEPT)
    return out, (qkv, out, total)


def _backward(shape: _Shape, kept: tuple[jax.Array, ...], cotangent: jax.Array) -> tuple[jax.Array]:
    like = jax.ShapeDtypeStruct(kept[0].shape, kept[0].dtype)
    return (_call(_backward_kernel, (*kept, cotangent), (like,), shape)[0],)


_attention.defvjp(_forward, _backward)


def _attended(qkv: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)


def _call(
    kernel: Any,
    arguments: tuple[jax.Array, ...],
    results: tuple[jax.ShapeDtypeStruct, ...],
    shape: _Shape,
) -> Sequence[jax.Array]:
    """Runs a kernel for all samples; arguments and results are [batch, n, ...]."""
    batch, n, _ = arguments[0].shape
    samples = max(k for k in range(1, batch + 1) if not batch % k and (k == 1 or k * n <= _TOKENS))

    def block(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((samples, n, array.shape[2]), lambda i: (i, 0, 0))

    arrays: tuple[Any, ...] = (*arguments, *results)
    row = sum(a.shape[2] * a.dtype.itemsize for a in arrays)  # bytes
    products = 2 if kernel is _forward_kernel else 5
    return pl.pallas_call(
        functools.partial(kernel, shape=shape),
        out_shape=results,
        grid=(batch // samples,),
        in_specs=[block(a) for a in arguments],
        out_specs=[block(a) for a in results],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",),
            # two blocks of each array, and the scores of the heads of a round
            vmem_limit_bytes=2 * samples * n * row
            + _SCORES * _INTERLEAVED * 4 * shape.scores
            + _SPARE,
        ),
        cost_estimate=pl.CostEstimate(
            flops=products * 2 * batch * shape.heads * shape.scores * shape.size,
            transcendentals=batch * shape.heads * shape.scores,
            bytes_accessed=batch * n * row,
        ),
        interpret=shape.interpret,
        name=kernel.__name__.strip("_"),
    )(*arguments)


def _forward_kernel(qkv_ref: Any, out_ref: Any, *total_refs: Any, shape: _Shape) -> None:
    """Also writes the logarithm of the softmax's sum of each row, in the head's lane."""
    width = out_ref.shape[2]

    def attend(sample: Any, head: Any) -> None:
        lanes, own = _head_lanes(head, shape.size, width)
        for rows in shape.rows:
            q, k, v = (qkv_ref[sample, rows, _of(part, width, lanes)] for part in range(3))
            scores = _scores(jnp.where(own, q, 0), k, shape.size)
            largest = scores.max(-1, keepdims=True)
            weights = jnp.exp(scores - largest)
            total = weights.sum(-1, keepdims=True)
            out = product(weights.astype(v.dtype), v, ROWS_BY_COLUMNS) / total
            _store(out_ref, (sample, rows, lanes), own, out)
            for ref in total_refs:
                _store(ref, (sample, rows), _lane() == head, largest + jnp.log(total))

    _each_head(attend, out_ref.shape[0], shape.heads)


def _backward_kernel(
    qkv_ref: Any, out_ref: Any, total_ref: Any, cotangent_ref: Any, gradient_ref: Any,
    *, shape: _Shape,
) -> None:  # fmt: skip
    width = cotangent_ref.shape[2]

    def pull_back(sample: Any, head: Any) -> None:
        lanes, own = _head_lanes(head, shape.size, width)
        for rows in shape.rows:
            q, k, v = (qkv_ref[sample, rows, _of(part, width, lanes)] for part in range(3))
            # other lanes of the result may be undefined
            out, cotangent = (
                jnp.where(own, ref[sample, rows, lanes], 0) for ref in (out_ref, cotangent_ref)
            )
            total = _sum_of_lanes(jnp.where(_lane() == head, total_ref[sample, rows], 0))
            # the sum of each row's weights times their gradients
            along = _sum_of_lanes(cotangent.astype(jnp.float32) * out.astype(jnp.float32))
            weights = jnp.exp(_scores(jnp.where(own, q, 0), k, shape.size) - total)
            of_weights = product(cotangent, v, ROWS_BY_ROWS)
            of_scores = (weights * (of_weights - along)).astype(q.dtype)
            gradients = (
                product(of_scores, k, ROWS_BY_COLUMNS) * shape.size**-0.5,
                product(of_scores, q, COLUMNS_BY_COLUMNS) * shape.size**-0.5,
                product(weights.astype(q.dtype), cotangent, COLUMNS_BY_COLUMNS),
            )
            for part, gradient in enumerate(gradients):
                _store(gradient_ref, (sample, rows, _of(part, width, lanes)), own, gradient)

    _each_head(pull_back, cotangent_ref.shape[0], shape.heads)


def _lane() -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, (1, _LANES), 1)


def _sum_of_lanes(rows: jax.Array) -> jax.Array:
    return rows.sum(-1, keepdims=True)


def _store(ref: Any, at: tuple[Any, ...], own: jax.Array, values: jax.Array) -> None:
    """Stores values in a head's own lanes; other lanes keep their values."""
    kept = ref[at]
    ref[at] = jnp.where(own, values.astype(kept.dtype), kept)


def _each_head(run: Callable[[Any, Any], None], samples: int, heads: int) -> None:
    """Calls `run` for each sample and head."""
    interleaved = max(n for n in range(1, _INTERLEAVED + 1) if heads % n == 0)
    rounds = heads // interleaved

    def body(i: Any, _: None) -> None:
        for k in range(interleaved):
            run(jax.lax.div(i, rounds), jax.lax.rem(i, rounds) * interleaved + k)

    jax.lax.fori_loop(0, samples * rounds, body, None)


def _head_lanes(head: Any, size: int, width: int) -> tuple[Any, jax.Array]:
    """Groups of 128 lanes that contain a head, and which lanes are the head's, bool [1, lanes].

    There is one group, or two if heads can cross the border of groups.
    """
    count = _LANES if _LANES % size == 0 else min(2 * _LANES, width)
    first = jnp.minimum(jax.lax.div(head * size, _LANES) * _LANES, width - count)
    lane = first + jax.lax.broadcasted_iota(jnp.int32, (1, count), 1)
    return pl.ds(pl.multiple_of(first, _LANES), count), (lane >= head * size) & (
        lane < (head + 1) * size
    )


def _of(part: int, width: int, lanes: Any) -> Any:
    """Returns the lanes of query (0), key (1) or value (2)."""
    return pl.ds(pl.multiple_of(part * width + lanes.start, _LANES), lanes.size)


def _scores(q: jax.Array, k: jax.Array, size: int) -> jax.Array:
    """Returns products of queries and keys, times size ** -0.5, in float32.

    The power of 2 in this factor is applied to the queries, which are fewer values than the scores,
    and not rounded by it. Often nothing else remains.
    """
    mantissa, exponent = math.frexp(size**-0.5)
    scores = product(q * 2.0 ** (exponent - 1), k, ROWS_BY_ROWS)
    return scores if mantissa == 0.5 else scores * (2 * mantissa)
