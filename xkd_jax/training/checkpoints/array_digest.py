"""Checksums of array values, the same on every mesh, to detect corruption.

Orbax protects the indexes of a checkpoint by checksums, but not the values: a flipped bit would
otherwise change a weight unnoticed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xkd_jax.networks.tree import Tree


def digests(tree: Tree) -> dict[str, int]:
    """Returns {path of an array: its digest}; every process must call it.

    An array's digest is the sum modulo 2^32 of the hashes of its 4-byte words. For a fixed position
    the hash (`mixed`) is one to one, so every change of a single word is detected; any other change
    is missed with probability 2^-32. Each device adds the words that it holds: the sum does not
    depend on the sharding.

    Args:
      tree: of `jax.Array`s with 4-byte dtypes.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    shards = [_shards(leaf) for _, leaf in leaves]
    parts = [
        _sums(of_leaf, [first_word(shard.index, leaf.shape) for shard in of_leaf], leaf.shape)
        for of_leaf, (_, leaf) in zip(shards, leaves, strict=True)
    ]
    here = [
        sum(int(part) for part, shard in zip(found, of_leaf, strict=True) if not shard.replica_id)
        for found, of_leaf in zip(jax.device_get(parts), shards, strict=True)
    ]
    everywhere = multihost_utils.process_allgather(np.array([_word(total) for total in here]))
    totals = np.atleast_2d(everywhere).sum(axis=0, dtype=np.uint32)
    names = (jax.tree_util.keystr(path) for path, _ in leaves)
    return {name: int(total) for name, total in zip(names, totals, strict=True)}


def device_digests(tree: Any) -> np.ndarray:
    """Returns the digest of each part of an array on each device of this process.

    Words are counted from the first one of the part: digests of equal parts are equal.

    Args:
      tree: of `jax.Array`s with 4-byte dtypes, each with a part on every device of one mesh.

    Returns:
      uint32 [arrays, devices], in the order of the devices' numbers.
    """
    shards = [_shards(leaf) for leaf in jax.tree.leaves(tree)]
    parts = [_sums(of_leaf, [0] * len(of_leaf), of_leaf[0].data.shape) for of_leaf in shards]
    return np.stack(jax.device_get(parts))


def _shards(array: jax.Array) -> list[jax.Shard]:
    return sorted(array.addressable_shards, key=lambda shard: shard.device.id)


def _sums(shards: list[jax.Shard], begins: list[int], shape: tuple[int, ...]) -> jax.Array:
    """Digests of an array's parts, uint32 [devices]; one program for all devices, no copy.

    Args:
      shards: of the array.
      begins: position of each shard's first word.
      shape: of the array, in which words are counted.
    """
    parts = [shard.data if shape else shard.data[None] for shard in shards]
    first, *rest = parts[0].shape
    mesh = Mesh(np.array([shard.device for shard in shards]), ("device",))
    side_by_side = jax.make_array_from_single_device_arrays(
        (len(parts) * first, *rest), NamedSharding(mesh, PartitionSpec("device")), parts
    )
    words = (np.array([_word(number) for number in of]) for of in (begins, _strides(shape or (1,))))
    return _sums_of_parts(mesh)(side_by_side, *words)


@functools.cache
def _sums_of_parts(mesh: Mesh) -> Callable[[jax.Array, np.ndarray, np.ndarray], jax.Array]:
    """Jitted: parts side by side on the first axis, their first words, and strides -> digests."""
    by_device = PartitionSpec("device")

    def sums_of_parts(part: jax.Array, begin: jax.Array, strides: jax.Array) -> jax.Array:
        return _sum(part, begin[0], strides)[None]

    specs = (by_device, by_device, PartitionSpec())
    return jax.jit(jax.shard_map(sums_of_parts, mesh=mesh, in_specs=specs, out_specs=by_device))


def first_word(index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """Returns the position of a part's first word in the flattened array.

    Args:
      index: of the part (`jax.Shard.index`).
      shape: of the array.
    """
    return sum((i.start or 0) * s for i, s in zip(index, _strides(shape), strict=True))


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _sum(part: jax.Array, begin: jax.Array, strides: jax.Array) -> jax.Array:
    """The digest of a part whose first word is at position `begin` of the flattened array.

    Args:
      part: values.
      begin: uint32 scalar.
      strides: of the flattened array, uint32 [axes].
    """
    position = jnp.full(part.shape, begin)
    for axis in range(part.ndim):
        position += strides[axis] * jax.lax.broadcasted_iota(jnp.uint32, part.shape, axis)
    words = jax.lax.bitcast_convert_type(part, jnp.uint32)
    return mixed(words, position).sum(dtype=jnp.uint32)


def mixed(words: jax.Array, position: jax.Array) -> jax.Array:
    """Hashes each word with its position by MurmurHash3's finalizer.

    Args:
      words: uint32, any shape.
      position: uint32, the same shape.

    Returns:
      uint32 of that shape; for a fixed position the hash is one to one.
    """
    mix = words ^ (position * np.uint32(0x9E3779B1))
    mix = (mix ^ (mix >> 16)) * np.uint32(0x85EBCA6B)
    mix = (mix ^ (mix >> 13)) * np.uint32(0xC2B2AE35)
    return mix ^ (mix >> 16)


def _word(number: int) -> np.uint32:
    return np.uint32(number % 2**32)
