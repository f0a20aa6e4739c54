"""The order of records: the record at each position of the sequence that a run reads.

It is a function of the config and the data set, so no state of it is saved or exchanged by hosts.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any, Protocol

import grain
import numpy as np

from data_pipelines.errors import UserError


class Order(Protocol):
    """Maps a position in the sequence of a run to (number of the draw, index of the record)."""

    def __call__(self, position: int) -> tuple[int, int]: ...

    def __len__(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An element of `InOrder`.

    Attributes:
      index: of the record in the data set.
      draw: number of earlier occurrences of this record: the epoch, or the number of its clip.
      record: the record.
    """

    index: int
    draw: int
    record: Any


class Records(Protocol):
    """Records by index."""

    def __getitem__(self, record: int, /) -> Any: ...


class InOrder(grain.MapDataset):
    """Records in an `Order`; replaces `grain.MapDataset.source` and `shuffle`."""

    def __init__(self, records: Records, order: Order):
        """Creates the data set of `Drawn` records."""
        super().__init__()
        self._records = records
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        """Returns the `Drawn` at a position."""
        if isinstance(index, slice):
            return self.slice(index)
        draw, record = self._order(index)
        return Drawn(record, draw, self._records[record])


@dataclasses.dataclass(frozen=True, eq=False)
class OnePass:
    """The order of one pass: each record in turn, at `clips` consecutive positions."""

    records: np.ndarray
    clips: int

    def __call__(self, position: int) -> tuple[int, int]:
        """Returns (number of the clip, index of the record) at a position."""
        record, clip = divmod(position, self.clips)
        return clip, int(self.records[record])

    def __len__(self) -> int:
        return len(self.records) * self.clips


@dataclasses.dataclass(frozen=True, eq=False)
class Shuffle:
    """The order of training: infinitely many epochs, each in a different random order.

    Attributes:
      records: indices of the records of an epoch, int64 [n].
      shards: shard of each record, int64 [n].
      seed: of the random orders.
      window: 0: permute all records of an epoch. Above 0: permute the shards, then permute records
        within windows of this many positions, so that nearby positions are in few shards.
      count: positions of an epoch; its remaining records are left out. 0: all records.
    """

    records: np.ndarray
    shards: np.ndarray
    seed: int
    window: int = 0
    count: int = 0

    def __call__(self, position: int) -> tuple[int, int]:
        """Returns (epoch, index of the record) at a position."""
        epoch, place = divmod(position, self.count or len(self.records))
        return epoch, int(self.records[_order(self, epoch)[place]])

    def __len__(self) -> int:
        return sys.maxsize  # Grain's convention for infinite data sets


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


@functools.lru_cache(maxsize=4)
def _order(shuffle: Shuffle, epoch: int) -> np.ndarray:
    """Returns the index in `records` for each position of an epoch, integers [n].

    (Grain's shuffle adds the epoch to the seed, so that epoch 1 of seed 0 equals epoch 0 of seed 1,
    and it does not order by shards; `benchmarks.grain_parts` prints its cost.)
    """
    rng = np.random.default_rng([shuffle.seed, epoch])
    count, window = len(shuffle.records), shuffle.window
    if not window:
        # The width of integers does not change their order, only the memory and time.
        return rng.permutation(np.arange(count, dtype=np.min_scalar_type(-count)))
    turn = rng.permutation(shuffle.shards.max() + 1)
    by_shard = np.argsort(turn[shuffle.shards], kind="stable")
    # A random offset of the windows, so that their content differs between epochs of one shard too.
    windows = (np.arange(count) + rng.integers(window)) // window
    return by_shard[np.lexsort((rng.random(count), windows))]
