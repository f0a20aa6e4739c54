"""Transfer of shards between hosts through the network between the devices, with collectives.

No host needs to reach a port of another one, and no data leaves the run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xkd_jax.training.local.shard_placement import Bounds, bounds_of


def shards_for_peers(array: jax.Array, peers: tuple[int, ...]) -> list[tuple[Bounds, jax.Array]]:
    """Sends each process's shards to its peer; every process must call it.

    Args:
      array: with a `NamedSharding`, over the same number of devices of each process.
      peers: the peer of each process, a permutation.

    Returns:
      Bounds and values [1, ...] of the shards of the process whose peer this one is, on the
      devices of this one.
    """
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding):
        raise TypeError(f"{sharding} has no mesh")
    sources = _sources(sharding.mesh, peers)
    moved = _move(sharding.mesh, sharding.spec, peers)(array)
    indices: Mapping[Any, Any] = sharding.devices_indices_map(array.shape)
    return [
        (bounds_of(indices[sources[shard.device]], array.shape), shard.data)
        for shard in moved.addressable_shards
    ]


@functools.cache
def _sources(mesh: Mesh, peers: tuple[int, ...]) -> dict[Any, Any]:
    """{device: the one whose shard it gets}, which has the same rank in its process."""
    of_process: dict[int, list[Any]] = {}
    for device in sorted(mesh.devices.flat, key=lambda d: d.id):
        of_process.setdefault(device.process_index, []).append(device)
    return {
        device: of_process[process][rank]
        for process, peer in enumerate(peers)
        for rank, device in enumerate(of_process[peer])
    }


@functools.cache
def _move(
    mesh: Mesh, spec: PartitionSpec, peers: tuple[int, ...]
) -> Callable[[jax.Array], jax.Array]:
    """Jitted: an array -> [devices, ...], the shard that each device gets."""
    place = {device: i for i, device in enumerate(mesh.devices.flat)}
    pairs = [(place[source], place[device]) for device, source in _sources(mesh, peers).items()]
    axes = mesh.axis_names

    def here(part: jax.Array) -> jax.Array:
        return jax.lax.ppermute(part, axes, pairs)[None]

    return jax.jit(
        jax.shard_map(
            here, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(axes), check_vma=False
        )
    )


def sent_to_all(words: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of one process on all of them; every process must call it.

    Args:
      words: uint32, on the process that has it; None elsewhere.
      shape: of the array.
    """
    here = np.zeros(shape, np.uint32) if words is None else words
    return np.asarray(multihost_utils.broadcast_one_to_all(here, words is not None))
