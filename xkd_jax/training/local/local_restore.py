"""Reading of a local checkpoint: shards of all hosts' disks, sent to where they are needed."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines.format import storage
from data_pipelines.terminal import count
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import print_on_main
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.local import peer_shards, shard_files, shard_placement
from xkd_jax.training.local.host_disks import HostDisks, step_of
from xkd_jax.training.local.shard_files import Place, Shard
from xkd_jax.training.local.shard_placement import Bounds


class Found(NamedTuple):
    """A checkpoint whose shards are all on some disk, by the indexes there.

    record: of the run.
    step: number of updates made.
    here: places of the shards on this process's disk.
    crc32: checksum of each shard.
    disks: {shard: disks that have it}.
    """

    record: RunRecord
    step: int
    here: dict[Shard, Place]
    crc32: dict[Shard, int]
    disks: dict[Shard, list[str]]


def find(disks: HostDisks, name: str, arrays: dict[str, Any]) -> Found | None:
    """Compares the indexes of a checkpoint with what the state needs; every process must call it.

    Damaged indexes and missing shards are printed.

    Args:
      disks: of all processes.
      name: of the checkpoint.
      arrays: {name: shape, dtype and sharding}, as `jax.ShapeDtypeStruct`.

    Returns:
      The checkpoint; None if a part of it is on no disk.
    """
    record, here, damaged = _listed(disks, name)
    mine = [record, [[*shard, place.crc32] for shard, place in here.items()], damaged]
    everyone = agreement.everyone(mine if disks.owner else [None, [], 0])
    if bad := sum(damaged for _, _, damaged in everyone):
        _print_damaged(bad, step_of(name))
    crc32: dict[Shard, int] = {}
    where: dict[Shard, list[str]] = collections.defaultdict(list)
    for process, (_, shards, _) in enumerate(everyone):
        for array, bounds, crc in shards:
            shard = _shard_of(array, bounds)
            crc32[shard] = crc
            where[shard].append(disks.names[process])
    records = [record for record, _, _ in everyone if record]
    if _is_lost(where, arrays, step_of(name)) or not records:
        return None
    read_from = disks.folder / name
    return Found(RunRecord.from_json(records[0], read_from), step_of(name), here, crc32, where)


def _listed(disks: HostDisks, name: str) -> tuple[dict[str, Any] | None, dict[Shard, Place], int]:
    """Reads the indexes of a checkpoint on this disk.

    Returns:
      A record, the places of shards, and the number of folders with a damaged index.
    """
    record, places, damaged = None, dict[Shard, Place](), 0
    folders = storage.subfolders(str(disks.folder / name))
    for folder in (f for f in folders if not f.endswith(shard_files.UNFINISHED)):
        try:
            content = shard_files.read_index(disks.folder / name / folder)
        except (OSError, ValueError, LookupError):
            damaged += 1
        else:
            record = content.record
            places |= content.places
    return record, places, damaged


def _shard_of(array: str, bounds: list[list[int]]) -> Shard:
    return Shard(array, tuple((start, stop) for start, stop in bounds))


def _print_damaged(parts: int, step: int) -> None:
    print_on_main(
        f"damaged   {count(parts, 'part')} of the local checkpoint of step {step}: not used"
    )


def _is_lost(disks: dict[Shard, list[str]], arrays: dict[str, Any], step: int) -> bool:
    """Whether parts of arrays are on no disk, which is printed."""
    bounds: dict[str, set[Bounds]] = collections.defaultdict(set)
    for shard, having in disks.items():
        if having:
            bounds[shard.array].add(shard.bounds)
    whole = shard_placement.is_whole
    lacking = [array for array, leaf in arrays.items() if not whole(bounds[array], leaf.shape)]
    if lacking:
        print_on_main(
            f"lost      the local checkpoint of step {step}: parts of {len(lacking)} of"
            f" {count(len(arrays), 'array')} are on no host's disk"
        )
    return bool(lacking)


def read(disks: HostDisks, found: Found, arrays: dict[str, Any]) -> list[jax.Array] | None:
    """Reads the arrays of a checkpoint, each shard once; every process must call it.

    A shard with a wrong checksum is printed, and the arrays that need it are read again, from a
    copy on another disk.

    Args:
      disks: of all processes.
      found: the checkpoint.
      arrays: as in `find`.

    Returns:
      The arrays, in the order of `arrays`; None: a damaged shard has no intact copy.
    """
    by_array: dict[str, list[Shard]] = collections.defaultdict(list)
    for shard in sorted(found.crc32):
        by_array[shard.array].append(shard)
    result: dict[str, jax.Array] = {}
    wanted = list(arrays)
    while wanted:
        damaged: set[Shard] = set()  # on this disk
        failed = []
        for name in wanted:
            array = _array(disks, found, by_array[name], arrays[name], damaged)
            if array is None:
                failed.append(name)
            else:
                result[name] = array
        everyone = agreement.everyone([[[*shard] for shard in sorted(damaged)], failed])
        wanted = [name for name in arrays if any(name in failed for _, failed in everyone)]
        if wanted and not _without_damaged(disks, found, [bad for bad, _ in everyone], arrays):
            return None
    return [result[name] for name in arrays]


def _without_damaged(
    disks: HostDisks, found: Found, damaged: list[list[Any]], arrays: dict[str, Any]
) -> bool:
    """Removes damaged shards from `found`; whether the checkpoint is complete without them.

    Args:
      disks: of all processes.
      found: the checkpoint.
      damaged: array and bounds of the damaged shards that each process has read from its disk.
      arrays: as in `find`.
    """
    bad = {
        (disks.names[process], _shard_of(*shard))
        for process, shards in enumerate(damaged)
        for shard in shards
    }
    _print_damaged(len(bad) or 1, found.step)  # 1: damaged in a transfer
    for disk, shard in bad:
        found.disks[shard].remove(disk)
    return bool(bad) and not _is_lost(found.disks, arrays, found.step)


def _array(
    disks: HostDisks, found: Found, shards: list[Shard], leaf: Any, damaged: set[Shard]
) -> jax.Array | None:
    """Reads an array from its shards; every process must call it.

    Args:
      disks: of all processes.
      found: the checkpoint.
      shards: of the array, in the same order on every process.
      leaf: shape, dtype and sharding of the array.
      damaged: gets the shards whose copies on this disk are damaged.

    Returns:
      The array; None if this process lacks a shard of it.
    """
    here, intact, values = jax.process_index(), True, dict[Bounds, Any]()
    needed = shard_placement.holders(leaf.sharding, leaf.shape)
    for shard in shards:
        wanting = set(needed.get(shard.bounds, ())) or {
            process
            for bounds, processes in needed.items()
            if shard_placement.overlap(bounds, shard.bounds)
            for process in processes
        }
        words = _words(disks, found, shard, wanting, damaged)
        if here in wanting:
            intact &= words is not None
            values[shard.bounds] = words
    if not intact:
        return None
    return _placed(leaf, {bounds: words.view(leaf.dtype) for bounds, words in values.items()})


def _words(
    disks: HostDisks, found: Found, shard: Shard, wanting: set[int], damaged: set[Shard]
) -> np.ndarray | None:
    """Reads a shard from this disk, or gets it from another process.

    Args:
      disks: of all processes.
      found: the checkpoint.
      shard: every process calls this for the same shards in the same order.
      wanting: the processes that need the shard.
      damaged: gets the shard if its copy on this disk is damaged.

    Returns:
      uint32 words; None if this process has no intact ones.
    """
    here, having = jax.process_index(), found.disks[shard]
    source = disks.names.index(having[0])
    sending = any(disks.names[process] not in having for process in wanting)
    words = None
    if disks.names[here] in having and (here in wanting or (sending and here == source)):
        words = shard_files.read(shard, found.here[shard])
        if words is None:
            damaged.add(shard)
    if sending:
        empty = np.zeros(shard_placement.shape_of(shard.bounds), np.uint32)
        own = (empty if words is None else words) if here == source else None
        sent = peer_shards.sent_to_all(own, empty.shape)
        if words is None and shard_files.crc32_of(sent) == found.crc32[shard]:
            words = sent
    return words


def _placed(leaf: Any, shards: dict[Bounds, np.ndarray]) -> jax.Array:
    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        return shard_placement.assembled(shards, shard_placement.bounds_of(index or (), leaf.shape))

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
