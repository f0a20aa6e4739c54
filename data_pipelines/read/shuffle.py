"""The order of records: the record at each position of the sequence that a run reads.

It is a function of the config and the data set, so no state of it is saved or exchanged by hosts.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_pipelines.errors import UserError

# Records of an epoch that are permuted together, 16 MB of integers. AudioSet is one block.
BLOCK = 1 << 22


class Order(Protocol):
    """Maps a position in the sequence of a run to (number of the draw, index of the record)."""

    def __call__(self, position: int) -> tuple[int, int]: ...

    def __len__(self) -> int: ...

    @property
    def clips_of_pass(self) -> int:
        """Positions of an epoch, or of the one pass."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class OnePass:
    """The order of one pass: each record in turn, at `clips` consecutive positions."""

    records: Sequence[int] | np.ndarray
    clips: int

    def __call__(self, position: int) -> tuple[int, int]:
        """Returns (number of the clip, index of the record) at a position."""
        record, clip = divmod(position, self.clips)
        return clip, int(self.records[record])

    def __len__(self) -> int:
        return len(self.records) * self.clips

    @property
    def clips_of_pass(self) -> int:
        return len(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Shuffle:
    """The order of training: infinitely many epochs, each in a different random order.

    An epoch is ordered in parts: windows, or without windows, blocks of at most `BLOCK` records. A
    part is ordered when one of its positions is read, so memory and time do not grow with the
    number of records.

    Attributes:
      records: indices of the records of an epoch: a range, or int64 [n], ascending.
      shards: place in `records` of the first record of each shard, and their number: int64
        [shards + 1].
      seed: of the random orders.
      window: 0: permute all records of an epoch, in `blocks` parts. Above 0: permute the shards,
        then permute records within windows of this many positions, so that nearby positions are in
        few shards.
      count: positions of an epoch; its remaining records are left out. 0: all records.
    """

    records: Sequence[int] | np.ndarray
    shards: np.ndarray
    seed: int
    window: int = 0
    count: int = 0

    def __call__(self, position: int) -> tuple[int, int]:
        """Returns (epoch, index of the record) at a position."""
        epoch, place = divmod(position, self.clips_of_pass)
        part, offset = _epoch(self, epoch).find(place)
        return epoch, int(self.records[_part(self, epoch, part)[offset]])

    def __len__(self) -> int:
        return sys.maxsize  # Grain's convention for infinite data sets

    @property
    def clips_of_pass(self) -> int:
        return self.count or len(self.records)


def epoch_records(records: int, batch_size: int, drop_last: bool) -> int:
    """Returns the number of records in an epoch; with `drop_last`, only whole batches count.

    Raises:
      UserError: with `drop_last`, the records do not fill a batch.
    """
    if not drop_last:
        return records
    if records < batch_size:
        raise UserError(
            f"data.drop_last is true, and {records} records do not fill a batch of {batch_size}:"
            " give a smaller batch_size, or --config.data.drop_last=false."
        )
    return records - records % batch_size


def blocks(records: int, window: int) -> int:
    """Returns the number of blocks of an epoch; each is permuted separately.

    Args:
      records: of an epoch.
      window: `data.shuffle_window`; above 0 there are windows in place of blocks.
    """
    return 1 if window else max(1, -(-records // BLOCK))


class _Epoch(Protocol):
    """The order of an epoch, in parts."""

    def find(self, place: int) -> tuple[int, int]:
        """Returns the part of a position in the epoch, and its position in that part."""
        ...

    def order(self, part: int) -> np.ndarray:
        """Returns the place in `Shuffle.records` for each position of a part, integers [n]."""
        ...


@functools.lru_cache(maxsize=4)
def _epoch(shuffle: Shuffle, epoch: int) -> _Epoch:
    return (_Windows if shuffle.window else _Blocks)(shuffle, epoch)


@functools.lru_cache(maxsize=4)
def _part(shuffle: Shuffle, epoch: int, part: int) -> np.ndarray:
    return _epoch(shuffle, epoch).order(part)


class _Blocks:
    """An epoch in blocks, each with one random record of every `blocks` consecutive ones.

    So a block is a random sample of all records, a different one in each epoch. A single block is a
    permutation of all records.

    (Grain's shuffle adds the epoch to the seed, so that epoch 1 of seed 0 equals epoch 0 of seed 1,
    and it does not order by shards; `benchmarks.grain_parts` prints its cost.)
    """

    def __init__(self, shuffle: Shuffle, epoch: int):
        self._seed = [shuffle.seed, epoch]
        self._records = len(shuffle.records)
        self._blocks = blocks(self._records, 0)
        # The last group has fewer records than there are blocks; the first blocks take them.
        self._groups, self._rest = divmod(self._records, self._blocks)

    def find(self, place: int) -> tuple[int, int]:
        longer = self._rest * (self._groups + 1)
        if place < longer:
            return divmod(place, self._groups + 1)
        block, offset = divmod(place - longer, self._groups)
        return block + self._rest, offset

    def order(self, part: int) -> np.ndarray:
        count = self._groups + (part < self._rest)
        # The width of integers does not change their order, only the memory and time.
        groups = np.arange(count, dtype=np.min_scalar_type(-self._records))
        # (A seed is followed by zeros, so block 0 has the numbers of `[seed, epoch]`.)
        groups = np.random.default_rng([*self._seed, part]).permutation(groups)
        if self._blocks == 1:
            return groups
        turn = np.random.default_rng([*self._seed, self._blocks])
        taken = turn.integers(self._blocks, size=self._groups + 1)
        taken[self._groups] = 0
        return groups * self._blocks + ((taken[groups] + part) % self._blocks).astype(groups.dtype)


class _Windows:
    """An epoch by shards in random order, in windows which are permuted."""

    def __init__(self, shuffle: Shuffle, epoch: int):
        self._window, self._records = shuffle.window, len(shuffle.records)
        self._bits = np.random.PCG64([shuffle.seed, epoch])
        rng = np.random.Generator(self._bits)
        sizes = np.diff(shuffle.shards)
        turn = np.argsort(rng.permutation(np.flatnonzero(sizes)[-1] + 1))
        self._end = np.cumsum(sizes[turn])
        # Added to a position in the permuted shards, this gives the place in `records`.
        self._shift = shuffle.shards[turn] - (self._end - sizes[turn])
        # A random offset of the windows, so that their content differs between epochs of one shard
        # too.
        self._offset = int(rng.integers(shuffle.window))

    def find(self, place: int) -> tuple[int, int]:
        window = (place + self._offset) // self._window
        return window, place - max(0, window * self._window - self._offset)

    def order(self, part: int) -> np.ndarray:
        start = part * self._window - self._offset
        places = np.arange(max(0, start), min(self._records, start + self._window))
        # An epoch has one random number for each position; these are the numbers of the window.
        bits = copy.deepcopy(self._bits)
        keys = np.random.Generator(bits.advance(int(places[0]))).random(len(places))
        places = places[np.argsort(keys, kind="stable")]
        return places + self._shift[np.searchsorted(self._end, places, side="right")]
