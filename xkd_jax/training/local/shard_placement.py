"""Which process writes which shard to its host's disk, and which shards make up an array.

A disk is identified by a string, which is equal on the processes that share it. Every function has
the same result on every process.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

# (start, stop) of a shard along each axis of its array.
Bounds = tuple[tuple[int, int], ...]


def bounds_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
    """Returns the bounds of a shard.

    Args:
      index: of the shard (`jax.Shard.index`).
      shape: of the array.
    """
    return tuple((*s.indices(n)[:2],) for s, n in zip(index, shape, strict=True))


def shape_of(bounds: Bounds) -> tuple[int, ...]:
    """Returns the shape of a shard."""
    return tuple(stop - start for start, stop in bounds)


@functools.cache
def holders(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> dict[Bounds, list[int]]:
    """Returns the processes that hold each distinct shard of an array, in ascending order."""
    found: dict[Bounds, set[int]] = {}
    indices: Mapping[Any, Any] = sharding.devices_indices_map(shape)
    for device, index in indices.items():
        found.setdefault(bounds_of(index, shape), set()).add(device.process_index)
    return {bounds: sorted(processes) for bounds, processes in found.items()}


def writers(holding: Iterable[int], disks: Sequence[str]) -> set[int]:
    """Returns the processes that write a shard: the first one of each disk.

    Args:
      holding: the processes that hold the shard.
      disks: the disk of each process.
    """
    first: dict[str, int] = {}
    for process in sorted(holding):
        first.setdefault(disks[process], process)
    return set(first.values())


@functools.cache
def peers(disks: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the peer of each process; every process is the peer of one.

    A peer has another disk, unless more than half of the processes share one.

    Args:
      disks: the disk of each process.
    """
    ordered = sorted(range(len(disks)), key=lambda process: (disks.index(disks[process]), process))
    largest = max(map(disks.count, disks))
    pairs = zip(ordered, ordered[largest:] + ordered[:largest], strict=True)
    return tuple(peer for _, peer in sorted(pairs))


def copiers(holding: Iterable[int], disks: tuple[str, ...]) -> set[int]:
    """Returns the processes that write a copy of a shard which their own devices don't hold.

    Only a shard that all its processes would write to one disk is copied.

    Args:
      holding: the processes that hold the shard.
      disks: the disk of each process.
    """
    holding = list(holding)
    if len({disks[process] for process in holding}) > 1:
        return set()
    beside = (peers(disks)[process] for process in holding)
    return writers((peer for peer in beside if disks[peer] != disks[holding[0]]), disks)


class Writes(NamedTuple):
    """The shards of an array that a process writes.

    own: bounds of shards that its devices hold.
    copies: bounds of shards that only devices of its peer hold.
    moved: whether any process writes copies.
    """

    own: frozenset[Bounds]
    copies: frozenset[Bounds]
    moved: bool


@functools.cache
def writes(
    sharding: jax.sharding.Sharding, shape: tuple[int, ...], disks: tuple[str, ...], process: int
) -> Writes:
    """Returns the shards of an array that a process writes.

    Args:
      sharding: of the array.
      shape: of the array.
      disks: the disk of each process.
      process: the number of the process.
    """
    holding = holders(sharding, shape)
    copying = {bounds: copiers(processes, disks) for bounds, processes in holding.items()}
    return Writes(
        frozenset(bounds for bounds, found in holding.items() if process in writers(found, disks)),
        frozenset(bounds for bounds, found in copying.items() if process in found),
        any(copying.values()),
    )


def is_whole(shards: Iterable[Bounds], shape: tuple[int, ...]) -> bool:
    """Whether distinct shards of one sharding cover an array."""
    shards = list(shards)
    fits = all(
        len(bounds) == len(shape) and all(b[1] <= n for b, n in zip(bounds, shape, strict=True))
        for bounds in shards
    )
    return fits and sum(math.prod(shape_of(b)) for b in shards) == math.prod(shape)


def overlap(one: Bounds, other: Bounds) -> Bounds | None:
    """Returns the bounds of the intersection of two shards of an array; None if it is empty."""
    both = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return both if all(start < stop for start, stop in both) else None


def assembled(shards: Mapping[Bounds, np.ndarray], wanted: Bounds) -> np.ndarray:
    """Returns a shard of an array, made of shards of any sharding that cover it.

    Args:
      shards: values by bounds, all with one dtype.
      wanted: bounds of the shard.
    """
    if wanted in shards:
        return shards[wanted]
    result = np.empty(shape_of(wanted), next(iter(shards.values())).dtype)
    for bounds, values in shards.items():
        if common := overlap(bounds, wanted):
            result[_within(common, wanted)] = values[_within(common, bounds)]
    return result


def _within(inner: Bounds, outer: Bounds) -> tuple[slice, ...]:
    pairs = zip(inner, outer, strict=True)
    return tuple(slice(a - start, b - start) for (a, b), (start, _) in pairs)
