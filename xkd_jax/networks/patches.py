"""Flattened patches of views, and random masks of tokens.

The values of a patch are stored color by color, so that rows of pixels stay contiguous in memory.
Parameters have the authors' order of values, colors last (`colors_first`).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from xkd_jax.parallel.axis_rules import on_each_shard
from xkd_jax.parallel.mesh import traced_device


def stored_patches(
    view: Float[Array, "batch ..."],
    patch: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    *,
    kernel: bool = True,
) -> Float[Array, "batch tokens values"]:
    """Returns `patchify`, as an array that the compiler stores once for all that read it.

    Otherwise the compiler would compute the statistics of each patch in the layout of the view's
    axes, in which most of a TPU's lanes are empty.

    Args:
      view: views.
      patch: sides of a patch.
      stride: as in `patchify`.
      kernel: whether TPUs cut videos by a kernel (`tpu_patches`).
    """
    adjacent = view.ndim == 5 and stride in (None, patch)
    if kernel and adjacent and _has_kernel(view.shape, patch):
        from xkd_jax.networks.tpu_patches import tpu_patches

        cut = on_each_shard(functools.partial(tpu_patches, patch=patch))
        return cut(jnp.moveaxis(view, -1, 1))
    return jax.lax.optimization_barrier(patchify(view, patch, stride))


def _has_kernel(shape: tuple[int, ...], patch: tuple[int, ...]) -> bool:
    device = traced_device()
    if device.platform != "tpu":
        return False
    from xkd_jax.networks import tpu_patches  # Pallas takes a quarter of a second to import

    return tpu_patches.is_supported(device, shape, patch)


def patchify(
    view: Float[Array, "batch ..."],
    patch: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
) -> Float[Array, "batch tokens values"]:
    """Cuts views into flattened patches, tokens in the order of the view's axes.

    Video [batch, frames, height, width, color] becomes [batch, (t h w), (c pt ph pw)], and audio
    [batch, mel, time] becomes [batch, (mel time), (ph pw)].

    Args:
      view: an axis for each side of the patch, and for video the colors.
      patch: sides of a patch, divisors of the view's sizes.
      stride: distance of overlapping patches along each axis; a remainder is cut off.
    """
    if stride is not None and stride != patch:
        for axis, (side, step) in enumerate(zip(patch, stride, strict=True), 1):
            starts = np.arange(0, view.shape[axis] - side + 1, step)
            taken = (starts[:, None] + np.arange(side)).reshape(-1)
            view = jnp.take(view, taken, axis=axis)
    color = "c" if view.ndim == len(patch) + 2 else ""
    axes = range(len(patch))
    cut = " ".join(f"(n{i} p{i})" for i in axes)
    tokens, values = (" ".join(f"{name}{i}" for i in axes) for name in "np")
    sides = {f"p{i}": side for i, side in enumerate(patch)}
    return einops.rearrange(view, f"b {cut} {color} -> b ({tokens}) ({color} {values})", **sides)


def unpatchify(
    patches: Float[Array, "batch tokens values"], patch: tuple[int, ...], grid: tuple[int, ...]
) -> Float[Array, "batch ..."]:
    """Assembles views from flattened patches: the inverse of `patchify`.

    Args:
      patches: with colors if they have more values than pixels.
      patch: sides of a patch.
      grid: patches along each axis.
    """
    color = "c" if patches.shape[-1] != math.prod(patch) else ""
    axes = range(len(patch))
    tokens, values = (" ".join(f"{name}{i}" for i in axes) for name in "np")
    joined = " ".join(f"(n{i} p{i})" for i in axes)
    sides = {f"p{i}": n for i, n in enumerate(patch)} | {f"n{i}": n for i, n in enumerate(grid)}
    return einops.rearrange(
        patches, f"b ({tokens}) ({color} {values}) -> b {joined} {color}", **sides
    )


def colors_first(
    array: Float[Array, "*axes values"], patch: tuple[int, ...]
) -> Float[Array, "*axes values"]:
    """Reorders the last axis, from a patch's values with colors last to colors first."""
    return einops.rearrange(array, "... (p c) -> ... (c p)", p=math.prod(patch))


def colors_last(
    array: Float[Array, "*axes values"], patch: tuple[int, ...]
) -> Float[Array, "*axes values"]:
    """Reorders the last axis, from a patch's values with colors first to colors last."""
    return einops.rearrange(array, "... (c p) -> ... (p c)", p=math.prod(patch))


class Masking(NamedTuple):
    """Masks of the tokens of each sample.

    keep: indices of the kept tokens, in the order of encoding, int32 [batch, kept].
    restore: position of each token in (kept tokens, removed tokens), int32 [batch, tokens].
    """

    keep: jax.Array
    restore: jax.Array

    @property
    def removed(self) -> Float[Array, "batch tokens"]:
        """1 for removed tokens, 0 for kept tokens."""
        return (self.restore >= self.keep.shape[1]).astype(jnp.float32)


def random_masking(noise: Float[Array, "batch tokens"], ratio: float) -> Masking:
    """Keeps the round(tokens * (1 - ratio)) tokens with the smallest noise of each sample.

    Source: MAE (He et al., CVPR 2022), section 3.
    """
    kept = round(noise.shape[1] * (1 - ratio))
    shuffle = jnp.argsort(noise, axis=1)
    return Masking(keep=shuffle[:, :kept], restore=jnp.argsort(shuffle, axis=1))


@jax.custom_vjp
def permute_tokens(
    tokens: Float[Array, "batch n width"], order: Integer[Array, "batch n"]
) -> Float[Array, "batch n width"]:
    """Returns all tokens of each sample in another order.

    The gradient is a permutation too; that of `gather_tokens` adds up tokens, which on GPUs needs
    atomic operations.
    """
    return gather_tokens(tokens, order)


def _permute(tokens: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gather_tokens(tokens, order), order


def _permute_back(order: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None]:
    return gather_tokens(cotangent, jnp.argsort(order, axis=1)), None


permute_tokens.defvjp(_permute, _permute_back)


def gather_tokens(
    tokens: Float[Array, "batch n width"], index: Integer[Array, "batch m"]
) -> Float[Array, "batch m width"]:
    """Returns the tokens of each sample at its indices."""
    return jnp.take_along_axis(tokens, index[:, :, None], axis=1)
