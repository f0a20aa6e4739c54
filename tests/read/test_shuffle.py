import dataclasses
import pickle

import numpy as np
import pytest

from data_pipelines.read.shuffle import Shuffle

SHARDS = np.repeat([0, 1, 2, 3], [30, 17, 25, 28])
COUNT = len(SHARDS)


def epoch_of(shuffle: Shuffle, epoch: int) -> list[int]:
    count = shuffle.count or len(shuffle.records)
    found = [shuffle(position) for position in range(epoch * count, (epoch + 1) * count)]
    assert {e for e, _ in found} == {epoch}
    return [record for _, record in found]


def make(window: int, seed: int = 3, records=None) -> Shuffle:
    records = np.arange(COUNT) if records is None else records
    return Shuffle(records, SHARDS[records], seed, window)


WINDOWS = pytest.mark.parametrize("window", [0, 1, 7, 40, 100, 1000])


@WINDOWS
def test_every_epoch_has_each_record_once(window):
    shuffle = make(window)
    epochs = [epoch_of(shuffle, epoch) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 5


@WINDOWS
def test_order_is_function_of_seed_and_epoch(window):
    shuffle = make(window)
    later = shuffle(3 * COUNT + 11)
    assert make(window)(3 * COUNT + 11) == later
    assert pickle.loads(pickle.dumps(shuffle))(3 * COUNT + 11) == later
    assert epoch_of(make(window, seed=4), 1) != epoch_of(shuffle, 1)


@WINDOWS
def test_subset_of_records(window):
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
    shuffle = Shuffle(np.arange(1000), np.zeros(1000, int), 0, 100)
    ends = set()
    for epoch in range(6):
        order = np.array(epoch_of(shuffle, epoch))
        moved = np.abs(order - np.arange(1000))
        assert moved.max() < 100
        assert moved.mean() > 25
        ends.add(int(order[:100].max()))
    assert len(ends) > 1


def test_all_records_are_mixed_without_window():
    order = np.array(epoch_of(Shuffle(np.arange(1000), np.zeros(1000, int), 0), 0))
    assert np.abs(order - np.arange(1000)).mean() > 250


@WINDOWS
def test_shorter_epoch_omits_end_of_order(window):
    whole, shorter = make(window), dataclasses.replace(make(window), count=96)
    for epoch in range(4):
        assert epoch_of(shorter, epoch) == epoch_of(whole, epoch)[:96]
    left_out = [set(range(COUNT)) - set(epoch_of(shorter, epoch)) for epoch in range(8)]
    assert len(set(map(tuple, left_out))) > 1  # others in each epoch


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 32_768, 32_769])
def test_order_does_not_depend_on_memory_of_integers(count):
    """It is NumPy's permutation of 64-bit integers, which runs of every version have read."""
    shuffle = Shuffle(np.arange(count), np.zeros(count, int), 3)
    expected = np.random.default_rng([3, 0]).permutation(count)
    assert [shuffle(position)[1] for position in range(count)] == expected.tolist()
