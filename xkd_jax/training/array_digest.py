"""A number for the content of every array, the same on every mesh: storage that errs is found out.

Of what a checkpoint consists of, Orbax protects its indexes by checksums but not the values, so
that a flipped bit would come back as another weight.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from xkd_jax.networks.tree import Tree


def digests(tree: Tree) -> dict[str, int]:
    """The digest of each array of a tree, by its path; every process must ask.

    An array's digest is the sum of its words' `mixed` numbers, modulo 2^32. Each word's number
    depends on its position one to one, so no change of a single word goes unnoticed; of other
    changes one in 2^32 does. The sum does not depend on its order, hence not on how the array is
    split: each device sums what it holds.

    Args:
      tree: of `jax.Array`s of 4-byte numbers.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    parts = jax.device_get([_parts(leaf) for _, leaf in leaves])
    here = np.array([sum(map(int, found)) % 2**32 for found in parts], np.uint32)
    everywhere = np.atleast_2d(multihost_utils.process_allgather(here))
    totals = everywhere.sum(axis=0, dtype=np.uint32)
    names = (jax.tree_util.keystr(path) for path, _ in leaves)
    return {name: int(total) for name, total in zip(names, totals, strict=True)}


def _parts(array: jax.Array) -> list[jax.Array]:
    """Sums of the parts that devices of this process hold and no other device holds before."""
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    found = []
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            begin = sum((i.start or 0) * s for i, s in zip(shard.index, strides, strict=True))
            found.append(_sum(shard.data, *(_word(n) for n in (begin, *strides))))
    return found


@jax.jit
def _sum(part: jax.Array, begin: jax.Array, *strides: jax.Array) -> jax.Array:
    """The digest of a part of an array whose first word is at position `begin` of the whole."""
    position = jnp.full(part.shape, begin)
    for axis, stride in enumerate(strides):
        position += stride * jax.lax.broadcasted_iota(jnp.uint32, part.shape, axis)
    words = jax.lax.bitcast_convert_type(part, jnp.uint32)
    return mixed(words, position).sum(dtype=jnp.uint32)


def mixed(words: jax.Array, position: jax.Array) -> jax.Array:
    """MurmurHash3's finalizer of each word and its position; for each position one to one."""
    mix = words ^ (position * np.uint32(0x9E3779B1))
    mix = (mix ^ (mix >> 16)) * np.uint32(0x85EBCA6B)
    mix = (mix ^ (mix >> 13)) * np.uint32(0xC2B2AE35)
    return mix ^ (mix >> 16)


def _word(number: int) -> np.uint32:
    return np.uint32(number % 2**32)
