"""Checksums of array values, the same on every mesh, to detect storage corruption.

Orbax protects the indexes of a checkpoint by checksums, but not the values: a flipped bit would
otherwise change a weight unnoticed.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

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


def _parts(array: jax.Array) -> list[jax.Array]:
    """Digests of the first replica of each shard on this process."""
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    found = []
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            begin = sum((i.start or 0) * s for i, s in zip(shard.index, strides, strict=True))
            found.append(_sum(shard.data, *(_word(n) for n in (begin, *strides))))
    return found


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
