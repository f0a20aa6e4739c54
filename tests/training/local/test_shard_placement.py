"""Which process writes which shard, for simulated processes."""

import dataclasses

import numpy as np
import pytest

from xkd_jax.training.local import shard_placement


@dataclasses.dataclass(frozen=True)
class Device:
    process_index: int


@dataclasses.dataclass(frozen=True)
class Rows:
    """Splits the first axis into parts; device i of all devices holds part i mod parts."""

    processes: int
    each: int
    parts: int

    def devices_indices_map(self, shape):
        step = shape[0] // self.parts
        return {
            _Numbered(i // self.each, i): (
                slice(i % self.parts * step, (i % self.parts + 1) * step),
                *[slice(None)] * (len(shape) - 1),
            )
            for i in range(self.processes * self.each)
        }


@dataclasses.dataclass(frozen=True)
class _Numbered(Device):
    number: int


SHAPE = (16, 3)
DISKS = {
    "one a process": ("a", "b", "c", "d"),
    "two for two": ("a", "a", "b", "b"),
    "interleaved": ("a", "b", "a", "b"),
    "uneven": ("a", "b", "b", "c"),
}


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("disks", DISKS.values(), ids=DISKS)
def test_any_disk_may_be_lost_and_no_disk_has_a_shard_twice(disks, parts):
    sharding = Rows(4, 2, parts)
    written = {disk: [] for disk in disks}
    for process, disk in enumerate(disks):
        found = shard_placement.writes(sharding, SHAPE, disks, process)
        held = [b for b, p in shard_placement.holders(sharding, SHAPE).items() if process in p]
        assert found.own <= set(held)
        assert not found.copies & set(held)
        written[disk] += [*found.own, *found.copies]
    for lost in written:
        left = {bounds for disk, shards in written.items() if disk != lost for bounds in shards}
        assert shard_placement.is_whole(left, SHAPE)
    for shards in written.values():
        assert len(shards) == len(set(shards))
    assert shard_placement.is_whole(set().union(*written.values()), SHAPE)


def test_shards_on_several_disks_are_not_copied():
    for process in range(4):
        assert not shard_placement.writes(Rows(4, 2, 4), SHAPE, tuple("abcd"), process).moved
        assert shard_placement.writes(Rows(4, 2, 8), SHAPE, tuple("abcd"), process).moved


def test_one_disk_has_every_shard_once_and_no_copies():
    found = [shard_placement.writes(Rows(4, 2, 8), SHAPE, ("a",) * 4, k) for k in range(4)]
    assert not any(writes.moved for writes in found)
    assert sum(len(writes.own) for writes in found) == 8


@pytest.mark.parametrize("disks", ["ab", "abcd", "aabb", "abab", "abbc", "aaabbb", "abcabbcd"])
def test_peers_have_another_disk_and_each_process_is_one(disks):
    peers = shard_placement.peers(tuple(disks))
    assert sorted(peers) == list(range(len(disks)))
    assert all(disks[peer] != disk for peer, disk in zip(peers, disks, strict=True))


@pytest.mark.parametrize("disks", ["a", "aa", "aab"])
def test_too_few_other_disks_leave_shards_without_copy(disks):
    peers = shard_placement.peers(tuple(disks))
    assert any(disks[peer] == disk for peer, disk in zip(peers, disks, strict=True))


def test_array_is_whole_only_with_all_its_shards():
    assert shard_placement.is_whole([()], ())
    assert not shard_placement.is_whole([], ())
    assert shard_placement.is_whole([((0, 2), (0, 3)), ((2, 4), (0, 3))], (4, 3))
    assert not shard_placement.is_whole([((0, 2), (0, 3))], (4, 3))
    assert not shard_placement.is_whole([((0, 4), (0, 6))], (6, 4))
    assert not shard_placement.is_whole([((0, 4),)], (4, 1))


@pytest.mark.parametrize(
    "wanted", [((0, 6), (0, 4)), ((1, 5), (1, 3)), ((2, 4), (0, 2)), ((5, 6), (3, 4))]
)
def test_shard_is_assembled_from_shards_of_other_sharding(wanted):
    whole = np.arange(24).reshape(6, 4)
    shards = {
        ((i, i + 2), (j, j + 2)): whole[i : i + 2, j : j + 2] for i in (0, 2, 4) for j in (0, 2)
    }
    (a, b), (c, d) = wanted
    np.testing.assert_array_equal(shard_placement.assembled(shards, wanted), whole[a:b, c:d])
