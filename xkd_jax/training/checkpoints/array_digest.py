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

    An array's digest is the sum modulo 2^32 of the hashes of its 4-byte words. A word's hash
    (`mixed`) is one to one for its position, so that every change of a single word is detected;
    another change is missed with probability 2^-32. Each device adds the words that it holds: the
    sum does not depend on the sharding.

    Args:
      tree: of `jax.Array`s with 4-byte dtypes.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    parts = jax.device_get([_parts(leaf) for _, leaf in leaves])
    here = np.array([sum(map(int, found)) % 2**32 for found in parts], np.uint32)
    everywhere = np.atleast_2d(multihost_utils.process_allgather(here))
    totals = everywhere.sum(axis=0, dtype=np.uint32)
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
    leaves = jax.tree.leaves(tree)
    devices = sorted(leaves[0].sharding.addressable_devices, key=lambda device: device.id)
    mesh = Mesh(np.array(devices), ("device",))
    found = _digests_of_parts(mesh)([_side_by_side(leaf, mesh) for leaf in leaves])
    return np.asarray(found).T


@functools.cache
def _digests_of_parts(mesh: Mesh) -> Callable[[list[jax.Array]], jax.Array]:
    """Jitted: arrays of `_side_by_side` -> digests [devices, arrays], one program for all."""

    def here(parts: list[jax.Array]) -> jax.Array:
        zero = np.uint32(0)
        sums = [_sum(part, zero, *map(_word, _strides(part.shape))) for part in parts]
        return jnp.stack(sums)[None]

    spec = PartitionSpec("device")
    return jax.jit(jax.shard_map(here, mesh=mesh, in_specs=(spec,), out_specs=spec))


def _side_by_side(array: jax.Array, mesh: Mesh) -> jax.Array:
    """The parts on this process's devices, one after the other along the first axis; no copy."""
    held = {shard.device: shard.data for shard in array.addressable_shards}
    parts = [held[device] for device in mesh.devices]
    if array.ndim == 0:
        parts = [part[None] for part in parts]
    first, *rest = parts[0].shape
    return jax.make_array_from_single_device_arrays(
        (len(parts) * first, *rest), NamedSharding(mesh, PartitionSpec("device")), parts
    )


def first_word(index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """Returns the position of a part's first word in the flattened array.

    Args:
      index: of the part (`jax.Shard.index`).
      shape: of the array.
    """
    return sum((i.start or 0) * s for i, s in zip(index, _strides(shape), strict=True))


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _parts(array: jax.Array) -> list[jax.Array]:
    """Digests of the first replica of each shard on this process."""
    strides = _strides(array.shape)
    return [
        _sum(shard.data, *map(_word, (first_word(shard.index, array.shape), *strides)))
        for shard in array.addressable_shards
        if shard.replica_id == 0
    ]


@jax.jit
def _sum(part: jax.Array, begin: jax.Array, *strides: jax.Array) -> jax.Array:
    """The digest of a shard whose first word is at position `begin` of the flattened array.

    Args:
      part: the shard's values.
      begin: uint32 scalar.
      strides: of the flattened array, one for each axis; uint32 scalars.
    """
    position = jnp.full(part.shape, begin)
    for axis, stride in enumerate(strides):
        position += stride * jax.lax.broadcasted_iota(jnp.uint32, part.shape, axis)
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
