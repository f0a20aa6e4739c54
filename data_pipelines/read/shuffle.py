"""The order of the records: which one is at each position of the sequence that a run reads.

A function of the config alone, so that nothing about the order has to be kept, or handed from host
to host.
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
    """Maps a position in the sequence of a run to (number of the draw, record)."""

    def __call__(self, position: int) -> tuple[int, int]: ...

    def __len__(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An element of `InOrder`.

    Attributes:
      index: of the record in the data set.
      draw: how often the sequence had this record before: the epoch, or the number of its clip.
      record: what the parent gives for `index`.
    """

    index: int
    draw: int
    record: Any


class InOrder(grain.MapDataset):
    """The records of its parent in an order, as `grain.MapDataset.shuffle` does with Grain's."""

    def __init__(self, parent: grain.MapDataset, order: Order):
        """Makes the data set of `Drawn` records."""
        super().__init__(parent)
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        """Returns the `Drawn` at a position."""
        if isinstance(index, slice):
            return self.slice(index)
        draw, record = self._order(index)
        return Drawn(record, draw, self.parents[0][record])


@dataclasses.dataclass(frozen=True, eq=False)
class OnePass:
    """The order of one pass: records one after the other, `clips` positions each."""

    records: np.ndarray
    clips: int

    def __call__(self, position: int) -> tuple[int, int]:
        """Returns the number of the clip at a position, and its record."""
        record, clip = divmod(position, self.clips)
        return clip, int(self.records[record])

    def __len__(self) -> int:
        return len(self.records) * self.clips


@dataclasses.dataclass(frozen=True, eq=False)
class Shuffle:
    """Maps a position in the endless sequence of epochs to a record.

    Attributes:
      records: those of an epoch, int64 [n]; each has at most one position in an epoch.
      shards: the shard of each, int64 [n].
      seed: of the orders.
      window: 0: an epoch is any permutation. Above: the shards come one after the other, in an
        order of their own in each epoch, and within stretches of so many positions the records
        are permuted, so that reads stay near each other for a while.
      count: positions of an epoch; the records that its order has after them are left out of it.
        0: all.
    """

    records: np.ndarray
    shards: np.ndarray
    seed: int
    window: int = 0
    count: int = 0

    def __call__(self, position: int) -> tuple[int, int]:
        """Returns the epoch of a position and the record there."""
        epoch, place = divmod(position, self.count or len(self.records))
        return epoch, int(self.records[_order(self, epoch)[place]])

    def __len__(self) -> int:
        return sys.maxsize  # as Grain has it for data sets that repeat without end


def epoch_records(records: int, batch_size: int, drop_last: bool) -> int:
    """How many of `records` an epoch takes: with `drop_last`, as many as fill whole batches.

    Raises:
      UserError: they don't fill one.
    """
    if not drop_last:
        return records
    if records < batch_size:
        raise UserError(
            f"data.drop_last is true, and {records} records don't fill a batch of {batch_size}:"
            " give a smaller batch_size, or --config.data.drop_last=false."
        )
    return records - records % batch_size


@functools.lru_cache(maxsize=4)
def _order(shuffle: Shuffle, epoch: int) -> np.ndarray:
    """Returns where in `records` each position of an epoch is, int64 [n].

    (Grain's own shuffle adds the epoch to the seed, so that epoch 1 of seed 0 is epoch 0 of seed 1,
    and has no order by shards; `benchmarks.grain_parts` prints what it costs.)
    """
    rng = np.random.default_rng([shuffle.seed, epoch])
    count, window = len(shuffle.records), shuffle.window
    if not window:
        return rng.permutation(count)
    turn = rng.permutation(shuffle.shards.max() + 1)
    by_shard = np.argsort(turn[shuffle.shards], kind="stable")
    # Stretches begin elsewhere in each epoch, so that what one holds changes in a single shard too.
    stretch = (np.arange(count) + rng.integers(window)) // window
    return by_shard[np.lexsort((rng.random(count), stretch))]
