"""Reading of a local checkpoint: what the disks of all hosts hold, sent to where it is needed."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines.format import storage
from data_pipelines.terminal import count
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import global_max, print_on_main
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.local import peer_shards, shard_files, shard_placement
from xkd_jax.training.local.host_disks import HostDisks, step_of
from xkd_jax.training.local.shard_files import Place, Shard
from xkd_jax.training.local.shard_placement import Bounds


class Found(NamedTuple):
    """A checkpoint of which every shard is intact on some disk.

    record: of the run.
    here: places of the shards on this process's disk.
    crc32: checksum of each shard.
    disks: {shard: disks that have it}.
    """

    record: RunRecord
    here: dict[Shard, Place]
    crc32: dict[Shard, int]
    disks: dict[Shard, list[str]]


def find(disks: HostDisks, name: str, arrays: dict[str, Any]) -> Found | None:
    """Compares the shards of a checkpoint with what the state needs; every process must call it.

    Damaged and missing shards are printed.

    Args:
      disks: of all processes.
      name: of the checkpoint.
      arrays: {name: shape, dtype and sharding}, as `jax.ShapeDtypeStruct`.

    Returns:
      The checkpoint, or None: something of it is on no disk.
    """
    record, here, damaged = _intact(disks, name) if disks.owner else (None, {}, 0)
    mine = [record, [[*shard, place.crc32] for shard, place in here.items()], damaged]
    everyone = agreement.everyone(mine)
    if bad := sum(damaged for _, _, damaged in everyone):
        print_on_main(
            f"damaged   {count(bad, 'part')} of the local checkpoint of step {step_of(name)}: not"
            " used"
        )
    crc32: dict[Shard, int] = {}
    where: dict[Shard, list[str]] = collections.defaultdict(list)
    bounds: dict[str, set[Bounds]] = collections.defaultdict(set)
    for process, (_, shards, _) in enumerate(everyone):
        for array, found, crc in shards:
            shard = Shard(array, tuple((start, stop) for start, stop in found))
            crc32[shard] = crc
            where[shard].append(disks.names[process])
            bounds[array].add(shard.bounds)
    whole = shard_placement.is_whole
    lacking = [array for array, leaf in arrays.items() if not whole(bounds[array], leaf.shape)]
    records = [record for record, _, _ in everyone if record]
    if lacking or not records:
        print_on_main(
            f"lost      the local checkpoint of step {step_of(name)}: parts of {len(lacking)} of"
            f" {count(len(arrays), 'array')} are on no host's disk"
        )
        return None
    if not disks.owner:  # the places on this disk are the same for all who share it
        here = _intact(disks, name)[1]
    return Found(RunRecord.from_json(records[0], disks.folder / name), here, crc32, where)


def _intact(disks: HostDisks, name: str) -> tuple[dict[str, Any] | None, dict[Shard, Place], int]:
    """Reads all of a checkpoint on this disk.

    Returns:
      A record, the places of intact shards, and the number of other shards or folders.
    """
    record, places, damaged = None, {}, 0
    folders = storage.subfolders(str(disks.folder / name))
    for folder in (f for f in folders if not f.endswith(shard_files.UNFINISHED)):
        try:
            content = shard_files.read_index(disks.folder / name / folder)
        except (OSError, ValueError, LookupError):
            damaged += 1
            continue
        record = content.record
        for shard, place in content.places.items():
            if shard_files.read(shard, place) is None:
                damaged += 1
            else:
                places[shard] = place
    return record, places, damaged


def read(disks: HostDisks, found: Found, arrays: dict[str, Any]) -> list[jax.Array] | None:
    """Reads the arrays of a checkpoint; every process must call it.

    Args:
      disks: of all processes.
      found: the checkpoint.
      arrays: as in `find`.

    Returns:
      The arrays, in the order of `arrays`; None if a shard changed since `find`.
    """
    by_array: dict[str, list[Shard]] = collections.defaultdict(list)
    for shard in sorted(found.crc32):
        by_array[shard.array].append(shard)
    result, faults = [], 0
    for name, leaf in arrays.items():
        shards = {}
        needed = shard_placement.holders(leaf.sharding, leaf.shape)
        for shard in by_array[name]:
            words, intact = _shard(disks, found, shard, needed)
            faults += not intact
            if words is not None:
                shards[shard.bounds] = words.view(leaf.dtype)
        result.append(_placed(leaf, shards))
    return None if global_max(faults) else result


def _shard(
    disks: HostDisks, found: Found, shard: Shard, needed: dict[Bounds, list[int]]
) -> tuple[np.ndarray | None, bool]:
    """Returns a shard that this process needs, from its disk or another process.

    Args:
      disks: of all processes.
      found: the checkpoint.
      shard: every process calls this for the same shards in the same order.
      needed: the processes that need each part of the array.

    Returns:
      uint32 words, or None if this process does not need them; and whether they are intact.
    """
    here, having = jax.process_index(), found.disks[shard]
    wanting = set(needed.get(shard.bounds, ())) or {
        process
        for bounds, processes in needed.items()
        if shard_placement.overlap(bounds, shard.bounds)
        for process in processes
    }
    source = disks.names.index(having[0])
    sending = any(disks.names[process] not in having for process in wanting)
    words = None
    if shard in found.here and (here in wanting or (sending and here == source)):
        words = shard_files.read(shard, found.here[shard])
    missing = np.zeros(shard_placement.shape_of(shard.bounds), np.uint32)
    if sending:
        own = (missing if words is None else words) if here == source else None
        sent = peer_shards.sent_to_all(own, missing.shape)
        if words is None and shard_files.crc32_of(sent) == found.crc32[shard]:
            words = sent
    if here not in wanting:
        return None, True
    return (missing, False) if words is None else (words, True)


def _placed(leaf: Any, shards: dict[Bounds, np.ndarray]) -> jax.Array:
    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        return shard_placement.assembled(shards, shard_placement.bounds_of(index or (), leaf.shape))

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
