"""Augmentation of video as a TPU kernel: a frame is read once, and written once as planes.

A grid step has all frames of a sample. Its operations are those that the sample's random numbers
select; XLA would compute each of them for all samples, in several passes over main memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, UInt8

from xkd_jax.augment import color
from xkd_jax.parallel.devices import vector_memory
from xkd_jax.parallel.kernel_products import ROWS_BY_COLUMNS, ROWS_BY_ROWS, product
from xkd_jax.parallel.tpu_tiles import LANES, ROWS, padded

# Bytes of vector memory beside the blocks.
_SPARE = 8 * 2**20
# Rows of the samples' numbers, after those of the operations of color jitter.
_GRAY, _TRANSPOSED = color.OPERATIONS, color.OPERATIONS + 1


def is_supported(
    device: Any, frames: UInt8[Array, "batch t h w 3"] | jax.ShapeDtypeStruct, size: int
) -> bool:
    """Whether a device has the vector memory that the kernel needs.

    Args:
      device: a `jax.Device` or `jax.sharding.AbstractDevice`.
      frames: canvases, or their shape.
      size: height and width of the views, in pixels.
    """
    return _vector_memory(frames.shape[1:4], size) < vector_memory(device)


def augmented_planes(
    view: dict[str, jax.Array],
    weights: tuple[Float[Array, "batch size h"], Float[Array, "batch size w"]],
    blur: tuple[Float[Array, "batch size size"], ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    interpret: bool = False,
) -> Float[Array, "batch 3 t size size"]:
    """Returns resized frames with changed colors, blurred and normalized, float32.

    Args:
      view: canvases [batch, t, h, w, 3] and random numbers (`data_pipelines.read.video_views`).
      weights: of rows and columns of a canvas in those of the view.
      blur: matrices along rows and columns of the view; empty: no blur.
      mean: of each color, in 0..1.
      std: of each color.
      interpret: whether XLA executes the kernel's operations, on any platform.
    """
    batch, count, height, width, _ = view["frames"].shape
    size = weights[0].shape[1]
    ones, zeros = jnp.ones(batch), jnp.zeros(batch)
    numbers = [view.get(name, ones) for name in color.BLENDS]
    numbers += [view.get(name, zeros) for name in ("hue", "grayscale", "transposed")]
    order = view.get("order", jnp.zeros((batch, color.OPERATIONS), jnp.int32))
    # TPUs store frames in this order: it has the least padding
    stored = einops.rearrange(view["frames"], "b t h w c -> b w c t h")
    matrices = (*weights, *blur)

    def of_sample(array: jax.Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        rest = array.shape[1:]
        return pl.BlockSpec((1, *rest), lambda b: (b, *(0 for _ in rest)))

    out = jax.ShapeDtypeStruct((batch, 3, count, size, size), jnp.float32)
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)  # [_, batch]: the last axis is padded
    step, groups = padded(count, ROWS), padded(height, LANES) // LANES
    return pl.pallas_call(
        functools.partial(
            _kernel,
            names=frozenset(view) & {"transposed", "order", "grayscale"},
            mean=mean,
            std=std,
        ),
        out_shape=out,
        grid=(batch,),
        in_specs=[scalars, scalars, of_sample(stored), *(of_sample(m) for m in matrices)],
        out_specs=of_sample(out),
        scratch_shapes=[pltpu.VMEM((3, groups, width * step, LANES), jnp.float32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",),
            vmem_limit_bytes=_vector_memory((count, height, width), size),
        ),
        cost_estimate=pl.CostEstimate(
            flops=3 * batch * count * 2 * size * (height * (width + size) + len(blur) * size**2),
            transcendentals=0,
            bytes_accessed=stored.size + 4 * math.prod(out.shape),
        ),
        interpret=interpret,
        name="augment_video",
    )(order.T, jnp.stack(numbers).astype(jnp.float32), stored, *matrices)


def _vector_memory(frames: tuple[int, ...], size: int) -> int:
    """Returns the bytes that the kernel needs for frames of this number, height and width."""
    count, height, width = frames
    rows, lanes = padded(count, ROWS), padded(height, LANES)
    canvas = 3 * width * padded(rows, 4 * ROWS) * lanes
    view = 3 * count * padded(size, ROWS) * padded(size, LANES) * 4
    # two blocks of each, and the canvas in float32
    return 2 * (canvas + view) + 3 * width * rows * lanes * 4 + _SPARE


def _kernel(
    order_ref: Any, numbers_ref: Any, frames_ref: Any, rows_ref: Any, columns_ref: Any, *refs: Any,
    names: frozenset[str], mean: tuple[float, ...], std: tuple[float, ...],
) -> None:  # fmt: skip
    *blur_refs, out_ref, wide_ref = refs
    sample = pl.program_id(0)
    _, width, _, count, height = frames_ref.shape
    step = wide_ref.shape[2] // width
    # rows of pixels that share a tile of the scratch memory
    groups = [slice(i, min(i + LANES, height)) for i in range(0, height, LANES)]
    columns = _in_bfloat16(columns_ref[0])

    def widen(column: Any, _: None) -> None:
        for c in range(3):
            values = frames_ref[0, column, c].astype(jnp.int32).astype(jnp.float32)
            place = pl.ds(pl.multiple_of(column * step, step), count)
            for g, rows in enumerate(groups):
                wide_ref[c, g, place, : rows.stop - rows.start] = values[:, rows]

    def augment(t: Any, _: None) -> None:
        for c in range(3):
            frame = pl.ds(t, width, step)
            parts = [wide_ref.at[c, g][frame, :] for g in range(len(groups))]
            # integers up to 255 are exact in bfloat16
            canvas = jnp.concatenate(parts, axis=1)[:, :height].astype(jnp.bfloat16)
            low, middle, high = (product(part, canvas, ROWS_BY_COLUMNS) for part in columns)
            narrow = low + middle + high
            out_ref[0, c, t] = product(rows_ref[0], narrow, ROWS_BY_ROWS)

        if "transposed" in names:

            @pl.when(numbers_ref[_TRANSPOSED, sample] > 0)
            def _() -> None:
                for c in range(3):
                    out_ref[0, c, t] = out_ref[0, c, t].T

        if "order" in names:
            _jitter(out_ref, t, order_ref, numbers_ref, sample)

        if "grayscale" in names:

            @pl.when(numbers_ref[_GRAY, sample] > 0)
            def _() -> None:
                gray = color.gray(_planes(out_ref, t))
                for c in range(3):
                    out_ref[0, c, t] = gray

        for c in range(3):
            plane = out_ref[0, c, t]
            if blur_refs:
                along_ref, down_ref = blur_refs
                plane = product(down_ref[0], plane, ROWS_BY_COLUMNS)
                plane = product(plane, along_ref[0], ROWS_BY_ROWS)
            out_ref[0, c, t] = plane * (1 / (255 * std[c])) - mean[c] / std[c]

    jax.lax.fori_loop(0, width, widen, None)
    jax.lax.fori_loop(0, count, augment, None)


def _in_bfloat16(values: jax.Array) -> list[jax.Array]:
    """Returns three bfloat16 arrays whose sum is a float32 array, the smallest first."""
    parts: list[jax.Array] = []
    for _ in range(3):
        parts.insert(0, values.astype(jnp.bfloat16))
        values = values - parts[0].astype(jnp.float32)
    return parts


def _planes(ref: Any, t: Any) -> list[jax.Array]:
    return [ref[0, c, t] for c in range(3)]


def _jitter(ref: Any, t: Any, order_ref: Any, numbers_ref: Any, sample: Any) -> None:
    """Applies color jitter to a frame: the blends before hue in the order, hue, those after it."""
    places = range(color.OPERATIONS)
    turned_at = sum(jnp.where(order_ref[i, sample] == color.HUE, i, 0) for i in places)

    def store(planes: Sequence[jax.Array] | jax.Array) -> None:
        for c in range(3):
            ref[0, c, t] = planes[c]

    def blend(place: Any, chosen: Any) -> None:
        @pl.when(chosen)
        def _() -> None:
            operation = order_ref[place, sample]
            planes = _planes(ref, t)
            gray = color.gray(planes)
            reference = jnp.where(operation == color.CONTRAST, gray.mean(), gray)
            reference = jnp.where(operation == color.BRIGHTNESS, 0, reference)
            store(color.blend(planes, numbers_ref[operation, sample], reference))

    jax.lax.fori_loop(0, color.OPERATIONS - 1, lambda i, _: blend(i, i < turned_at), None)
    store(color.rotate_hue(_planes(ref, t), numbers_ref[color.HUE, sample]))
    jax.lax.fori_loop(1, color.OPERATIONS, lambda i, _: blend(i, i > turned_at), None)
