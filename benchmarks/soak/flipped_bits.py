"""Arrays with a bit that is flipped on one device, as faulty memory does."""

import jax
import numpy as np


def flipped(array: jax.Array, number: int, bit: int) -> jax.Array:
    """Returns the array with one bit of its first word flipped on device `number` alone."""

    def part(shard: jax.Shard) -> jax.Array:
        if shard.device.id != number:
            return shard.data
        words = np.array(shard.data)
        words.reshape(-1).view(np.uint32)[0] ^= np.uint32(1 << bit)
        return jax.device_put(words, shard.device)

    parts = [part(shard) for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)
