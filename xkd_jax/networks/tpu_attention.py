"""Self-attention as a TPU kernel that does not store the scores in main memory.

A grid step processes one or a few samples with all tokens, in the layout of the projection's
output, without transposition. Matrix products have 128 lanes; smaller heads share them, and are
computed together. A head's keys and values are 0 in the other heads' lanes, so that these don't
contribute to its products. The gradient computes the attention weights again from query, key and
the logarithm of the softmax's sum of each row.

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
from xkd_jax.parallel.devices import vector_memory
from xkd_jax.parallel.kernel_products import (
    COLUMNS_BY_COLUMNS,
    ROWS_BY_COLUMNS,
    ROWS_BY_ROWS,
    product,
)
from xkd_jax.parallel.mesh import traced_device
from xkd_jax.parallel.tpu_tiles import LANES

# Largest number of tokens of a grid step with several samples.
_TOKENS = 512
# Part of the vector memory for the scores of heads whose operations the compiler interleaves.
_INTERLEAVED = 1 / 8
# Arrays of the scores' size that a head needs at once, by bytes of a value: products in float32
# have operands in three parts. And bytes for everything else.
_SCORES, _SPARE = {2: 2, 4: 6}, 8 * 2**20


class _Shape(NamedTuple):
    """Static arguments of a kernel; see `tpu_attention`.

    memory: bytes of the device's vector memory.
    """

    heads: int
    size: int
    segments: tuple[int, ...]
    memory: int
    interpret: bool

    @property
    def scores(self) -> int:
        """Number of scores of one head of one sample."""
        return sum(n * n for n in self.segments)

    @property
    def together(self) -> int:
        """Number of heads that share their lanes with no others."""
        return LANES // self.size if LANES % self.size == 0 else 1

    @property
    def groups(self) -> int:
        """Number of groups of such heads."""
        return -(-self.heads // self.together)

    @property
    def interleaved(self) -> int:
        """Number of groups per loop iteration, whose operations the compiler interleaves."""
        fitting = int(_INTERLEAVED * self.memory) // (4 * self.scores * self.together)
        divisors = (n for n in range(1, self.groups + 1) if self.groups % n == 0)
        return max(n for n in divisors if n <= max(fitting, 1))

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
    unused = next(i for i in range(LANES) if (heads + i) * size % LANES == 0)
    padded = jnp.pad(qkv, [(0, 0)] * 3 + [(0, unused), (0, 0)])
    shape = _Shape(heads, size, segments, vector_memory(traced_device()), interpret)
    # saved in rows, the product's layout: with other axes last, the compiler would transpose them
    rows = checkpoint_name(padded.reshape(batch, n, -1), KEPT)
    flat = checkpoint_name(_attention(rows, shape), KEPT)
    return flat.reshape(batch, n, heads + unused, size)[:, :, :heads]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attention(qkv: jax.Array, shape: _Shape) -> jax.Array:
    return _call(_forward_kernel, (qkv,), (_attended(qkv),), shape)[0]


def _forward(qkv: jax.Array, shape: _Shape) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    totals = jax.ShapeDtypeStruct((*qkv.shape[:2], LANES), jnp.float32)
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
    scores = _SCORES[arguments[0].dtype.itemsize]
    products = 2 if kernel is _forward_kernel else 5
    return pl.pallas_call(
        functools.partial(kernel, shape=shape),
        out_shape=results,
        grid=(batch // samples,),
        in_specs=[block(a) for a in arguments],
        out_specs=[block(a) for a in results],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",),
            # two blocks of each array, and the scores of interleaved heads
            vmem_limit_bytes=2 * samples * n * row
            + scores * shape.interleaved * shape.together * 4 * shape.scores
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

    def attend(sample: Any, first: Any) -> None:
        lanes, owns = _lanes_of(first, shape, width)
        for rows in shape.rows:
            q, k, v = (qkv_ref[sample, rows, _of(part, width, lanes)] for part in range(3))
            keys, values = _in_turn(k, owns), _in_turn(v, owns)
            scores = _tiles(_scores(q, keys, shape.size), owns, len(k))
            largest = _of_each_head(scores, owns, jnp.maximum, jnp.max, -jnp.inf)
            weights = [jnp.exp(tile - _in_lanes(largest, owns)) for tile in scores]
            total = _of_each_head(weights, owns, jnp.add, jnp.sum, 0.0)
            weights = [tile.astype(v.dtype) for tile in weights]
            out = product(jnp.concatenate(weights, axis=1), values, ROWS_BY_COLUMNS)
            _store(out_ref, (sample, rows, lanes), owns, out / _in_lanes(total, owns))
            for ref in total_refs:
                totals = ref[sample, rows]
                for i, (m, t) in enumerate(zip(largest, total, strict=True)):
                    totals = jnp.where(_lane() == first + i, m + jnp.log(t), totals)
                ref[sample, rows] = totals

    _each_group(attend, out_ref.shape[0], shape)


def _backward_kernel(
    qkv_ref: Any, out_ref: Any, total_ref: Any, cotangent_ref: Any, gradient_ref: Any,
    *, shape: _Shape,
) -> None:  # fmt: skip
    width = cotangent_ref.shape[2]

    def pull_back(sample: Any, first: Any) -> None:
        lanes, owns = _lanes_of(first, shape, width)
        for rows in shape.rows:
            q, k, v = (qkv_ref[sample, rows, _of(part, width, lanes)] for part in range(3))
            cotangent, totals = cotangent_ref[sample, rows, lanes], total_ref[sample, rows]
            products = cotangent.astype(jnp.float32) * out_ref[sample, rows, lanes]
            of_q, of_k, of_v = jnp.zeros(q.shape, jnp.float32), [], []
            for i, own in enumerate(owns):
                total = _sum_of_lanes(jnp.where(_lane() == first + i, totals, 0))
                # the sum of each row's weights times their gradients
                along = _sum_of_lanes(jnp.where(own, products, 0))
                key, value = jnp.where(own, k, 0), jnp.where(own, v, 0)
                weights = jnp.exp(_scores(q, key, shape.size) - total)
                of_weights = product(cotangent, value, ROWS_BY_ROWS)
                of_scores = (weights * (of_weights - along)).astype(q.dtype)
                of_q += product(of_scores, key, ROWS_BY_COLUMNS)
                of_k.append(_over_queries(of_scores, q, i, shape))
                of_v.append(_over_queries(weights.astype(q.dtype), cotangent, i, shape))
            gradients = (
                of_q * shape.size**-0.5,
                _joined(of_k) * shape.size**-0.5,
                _joined(of_v),
            )
            for part, gradient in enumerate(gradients):
                _store(gradient_ref, (sample, rows, _of(part, width, lanes)), owns, gradient)

    _each_group(pull_back, cotangent_ref.shape[0], shape)


def _lane() -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)


def _sum_of_lanes(rows: jax.Array) -> jax.Array:
    return rows.sum(-1, keepdims=True)


def _store(ref: Any, at: tuple[Any, ...], owns: list[jax.Array], values: jax.Array) -> None:
    """Stores values in the lanes of a group of heads; other lanes keep their values."""
    values = values.astype(ref.dtype)
    ref[at] = values if len(owns) > 1 else jnp.where(owns[0], values, ref[at])


def _each_group(run: Callable[[Any, Any], None], samples: int, shape: _Shape) -> None:
    """Calls `run` for each sample and the first head of each group."""
    rounds = shape.groups // shape.interleaved

    def body(i: Any, _: None) -> None:
        for k in range(shape.interleaved):
            group = jax.lax.rem(i, rounds) * shape.interleaved + k
            run(jax.lax.div(i, rounds), group * shape.together)

    jax.lax.fori_loop(0, samples * rounds, body, None)


def _lanes_of(first: Any, shape: _Shape, width: int) -> tuple[Any, list[jax.Array]]:
    """Lanes that contain a group of heads, and which of them are each head's, bool [1, lanes].

    Heads of a group of several fill 128 lanes. A single head is within 128 lanes, or 256 if heads
    can cross their borders.
    """
    count = LANES if LANES % shape.size == 0 else min(2 * LANES, width)
    start = jnp.minimum(jax.lax.div(first * shape.size, LANES) * LANES, width - count)
    lane = start + jax.lax.broadcasted_iota(jnp.int32, (1, count), 1)
    heads = (first + i for i in range(shape.together))
    owns = [(lane >= head * shape.size) & (lane < (head + 1) * shape.size) for head in heads]
    return pl.ds(pl.multiple_of(start, LANES), count), owns


def _in_turn(rows: jax.Array, owns: list[jax.Array]) -> jax.Array:
    """Returns keys or values of all heads of a group, a part of each head's in turn.

    Each 128 rows of the result have as many rows of each head, so that a head's columns of the
    scores are its lanes. The last rows may be 0.
    """
    part = len(rows) if len(owns) == 1 else LANES // len(owns)
    rows = jnp.pad(rows, ((0, -len(rows) % part), (0, 0)))
    return jnp.concatenate(
        [jnp.where(own, rows[i : i + part], 0) for i in range(0, len(rows), part) for own in owns]
    )


def _tiles(scores: jax.Array, owns: list[jax.Array], n: int) -> list[jax.Array]:
    """Returns the scores of each 128 rows of `_in_turn`; those of rows beyond n are -inf."""
    if len(owns) == 1:
        return [scores]
    part = LANES // len(owns)
    tiles = [scores[:, i : i + LANES] for i in range(0, scores.shape[1], LANES)]
    if n % part:
        tiles[-1] = jnp.where(jax.lax.rem(_lane(), part) < n % part, tiles[-1], -jnp.inf)
    return tiles


def _of_each_head(
    tiles: list[jax.Array], owns: list[jax.Array], combine: Any, reduce: Any, neutral: float
) -> list[jax.Array]:
    """Reduces each row of each head's columns."""
    joined = functools.reduce(combine, tiles)
    if len(owns) == 1:
        return [reduce(joined, -1, keepdims=True)]
    return [reduce(jnp.where(own, joined, neutral), -1, keepdims=True) for own in owns]


def _in_lanes(values: list[jax.Array], owns: list[jax.Array]) -> jax.Array:
    """Returns a value of each row in the lanes of each head."""
    return functools.reduce(
        lambda joined, of: jnp.where(of[0], of[1], joined),
        zip(owns[1:], values[1:], strict=True),
        values[0],
    )


def _over_queries(scores: jax.Array, queries: jax.Array, i: int, shape: _Shape) -> jax.Array:
    """Returns scores.T @ queries [keys, lanes]; of several heads, the transposed rows of head i.

    Transposed, the lanes of one head are few rows, where the product would compute all lanes.
    """
    if shape.together == 1:
        return product(scores, queries, COLUMNS_BY_COLUMNS)
    own = queries.T[i * shape.size : (i + 1) * shape.size]
    return product(own, scores, ROWS_BY_COLUMNS)


def _joined(heads: list[jax.Array]) -> jax.Array:
    """Returns the products of `_over_queries` as [keys, lanes]."""
    return jnp.concatenate(heads).T if len(heads) > 1 else heads[0]


def _of(part: int, width: int, lanes: Any) -> Any:
    """Returns the lanes of query (0), key (1) or value (2)."""
    return pl.ds(pl.multiple_of(part * width + lanes.start, LANES), lanes.size)


def _scores(q: jax.Array, k: jax.Array, size: int) -> jax.Array:
    """Returns products of queries and keys, times size ** -0.5, in float32.

    The power of 2 in this factor is applied to the queries, which are fewer values than the scores,
    and not rounded by it. Often nothing else remains.
    """
    mantissa, exponent = math.frexp(size**-0.5)
    scores = product(q * 2.0 ** (exponent - 1), k, ROWS_BY_ROWS)
    return scores if mantissa == 0.5 else scores * (2 * mantissa)
