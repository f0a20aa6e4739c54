import dataclasses
import pickle

import numpy as np
import pytest

from data_pipelines.read import shuffle as shuffle_lib
from data_pipelines.read.shuffle import Shuffle

SHARDS = np.repeat([0, 1, 2, 3], [30, 17, 25, 28])
COUNT = len(SHARDS)


def epoch_of(shuffle: Shuffle, epoch: int) -> list[int]:
    count = shuffle.count or len(shuffle.records)
    found = [shuffle(position) for position in range(epoch * count, (epoch + 1) * count)]
    assert {e for e, _ in found} == {epoch}
    return [record for _, record in found]


def make(window: int, seed: int = 3, records=None) -> Shuffle:
    records = range(COUNT) if records is None else records
    return Shuffle(records, np.searchsorted(SHARDS[records], range(5)), seed, window)


def one_shard(count: int, seed: int = 0, window: int = 0) -> Shuffle:
    return Shuffle(range(count), np.array([0, count]), seed, window)


@pytest.fixture(params=[None, 7, 33])
def block(request, monkeypatch):
    """Epochs of one block, as of small data sets, and of several."""
    if request.param:
        monkeypatch.setattr(shuffle_lib, "BLOCK", request.param)


WINDOWS = pytest.mark.parametrize("window", [0, 1, 7, 40, 100, 1000])


@WINDOWS
def test_every_epoch_has_each_record_once(window, block):
    shuffle = make(window)
    epochs = [epoch_of(shuffle, epoch) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 5


@WINDOWS
def test_order_is_function_of_seed_and_epoch(window, block):
    shuffle = make(window)
    later = shuffle(3 * COUNT + 11)
    assert make(window)(3 * COUNT + 11) == later
    assert pickle.loads(pickle.dumps(shuffle))(3 * COUNT + 11) == later
    assert epoch_of(make(window, seed=4), 1) != epoch_of(shuffle, 1)


@WINDOWS
def test_subset_of_records_is_shuffled(window, block):
    subset = np.array([3, 5, 40, 41, 42, 60, 61, 99])
    shuffle = make(window, records=subset)
    assert all(sorted(epoch_of(shuffle, epoch)) == subset.tolist() for epoch in range(3))


@pytest.mark.parametrize("window", [1, 7, 20])
def test_windows_visit_shards_in_turn(window):
    """Records at consecutive positions are within little more than a window."""
    first_shards = set()
    for epoch in range(8):
        records = np.array(epoch_of(make(window), epoch))
        turn = list(dict.fromkeys(SHARDS[records].tolist()))
        first_shards.add(turn[0])
        in_turn = np.concatenate([np.flatnonzero(shard == SHARDS) for shard in turn])
        place = np.empty(COUNT, int)
        place[in_turn] = np.arange(COUNT)
        if window == 1:  # (a wider window mixes records at the border of two shards)
            np.testing.assert_array_equal(place[records], np.arange(COUNT))
        for shard in range(4):
            positions = np.flatnonzero(SHARDS[records] == shard)
            assert np.ptp(positions) < (shard == SHARDS).sum() + 2 * window
    assert len(first_shards) > 1


def test_window_mixes_neighboring_records():
    """Neighbors in a shard are spread over a window, differently in each epoch."""
    shuffle = one_shard(1000, window=100)
    ends = set()
    for epoch in range(6):
        order = np.array(epoch_of(shuffle, epoch))
        moved = np.abs(order - np.arange(1000))
        assert moved.max() < 100
        assert moved.mean() > 25
        ends.add(int(order[:100].max()))
    assert len(ends) > 1


def test_all_records_are_mixed_without_window():
    order = np.array(epoch_of(one_shard(1000), 0))
    assert np.abs(order - np.arange(1000)).mean() > 250


@WINDOWS
def test_shorter_epoch_omits_end_of_order(window, block):
    whole, shorter = make(window), dataclasses.replace(make(window), count=96)
    for epoch in range(4):
        assert epoch_of(shorter, epoch) == epoch_of(whole, epoch)[:96]
    left_out = [set(range(COUNT)) - set(epoch_of(shorter, epoch)) for epoch in range(8)]
    assert len(set(map(tuple, left_out))) > 1  # differ between epochs


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 32_768, 32_769])
def test_order_does_not_depend_on_memory_of_integers(count):
    """The order is NumPy's permutation of 64-bit integers, as in all earlier versions."""
    shuffle = one_shard(count, 3)
    expected = np.random.default_rng([3, 0]).permutation(count)
    assert [shuffle(position)[1] for position in range(count)] == expected.tolist()


@WINDOWS
@pytest.mark.parametrize("subset", [None, [3, 5, 40, 41, 42, 60, 61], list(range(30))])
def test_windows_are_those_of_all_random_numbers_at_once(window, subset):
    """A window draws only its part of the random numbers, which equal those of all versions."""
    records = np.arange(COUNT) if subset is None else np.array(subset)
    shards, count = SHARDS[records], len(records)
    for epoch in range(3):
        rng = np.random.default_rng([3, epoch])
        if window:
            by_shard = np.argsort(rng.permutation(shards.max() + 1)[shards], kind="stable")
            windows = (np.arange(count) + rng.integers(window)) // window
            expected = by_shard[np.lexsort((rng.random(count), windows))]
        else:
            expected = rng.permutation(count)
        assert epoch_of(make(window, records=records), epoch) == records[expected].tolist()


@pytest.mark.parametrize("count", [700, 701, 749])
def test_blocks_are_random_samples_of_all_records(count, monkeypatch):
    """A block has one record of each group of consecutive records, another in each epoch."""
    monkeypatch.setattr(shuffle_lib, "BLOCK", 100)
    number = shuffle_lib.blocks(count, 0)
    assert number == -(-count // 100)
    first = []
    for epoch in range(4):
        order = np.array(epoch_of(one_shard(count, 5), epoch))
        sizes = [len(part) for part in np.array_split(order, number)]
        for block in np.split(order, np.cumsum(sizes)[:-1]):
            assert sorted(block // number) == list(range(len(block)))
            assert np.abs(np.diff(block)).mean() > count / 5  # in random order
        first.append(np.sort(order[: sizes[0]]))
    # A record of the first group's `number` is in the first block of two epochs by chance.
    same = [np.isin(first[0], other).mean() for other in first[1:]]
    assert np.mean(same) < 2 / number


def test_members_of_groups_are_taken_equally_often(monkeypatch):
    """A block has an eighth of every eighth record, also if a list repeats a pattern."""
    monkeypatch.setattr(shuffle_lib, "BLOCK", 1000)
    order = np.array(epoch_of(one_shard(8000), 0))
    counts = [np.bincount(block % 8, minlength=8) for block in np.split(order, 8)]
    assert np.abs(np.array(counts) - 125).max() < 50  # 4.8 standard deviations


def test_position_of_a_huge_epoch_is_found_without_an_array_of_it():
    """An array of 10^15 records would not fit into any memory."""
    records = 10**15
    shards = np.linspace(0, records, 1001).astype(np.int64)
    for window in (1, 5000):
        shuffle = Shuffle(range(records), shards, 0, window)
        epoch, record = shuffle(3 * records + 12_345)
        assert (epoch, 0 <= record < records) == (3, True)
        near = [np.searchsorted(shards, shuffle(p)[1], side="right") for p in range(100)]
        assert len(set(near)) == 1


def test_blocks_are_counted():
    assert [shuffle_lib.blocks(n, 0) for n in (1, 1 << 22, (1 << 22) + 1, 10**8)] == [1, 1, 2, 24]
    assert shuffle_lib.blocks(10**8, 1000) == 1
