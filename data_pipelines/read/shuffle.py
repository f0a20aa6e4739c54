"""The order of the records in each epoch.

A function of seed and epoch alone, so that a position in the endless sequence of epochs says which
record it is: nothing about the order has to be kept, or handed from host to host.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from data_pipelines.errors import UserError


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

    (Grain's own shuffle walks cycles of 2^16 numbers, which takes 20 ms a record for a small set.)
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
