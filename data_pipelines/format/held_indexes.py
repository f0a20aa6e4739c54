"""Indexes of the shards that a process reads, in bounded memory."""

from __future__ import annotations

import collections
import threading
from typing import Any

import numpy as np

from data_pipelines.format.tfrecord import FRAMING

# Of a record: position of its frame in the shard, length in bytes, masked CRC-32C of the data.
LOCATED = np.dtype([("offset", "<i8"), ("length", "<u4"), ("crc", "<u4")])
# Memory of an array besides its rows, in rows.
_OVERHEAD = 16


def located(entries: np.ndarray) -> np.ndarray:
    """Returns where the records of a shard are, array [records] of `LOCATED`.

    Args:
      entries: array [records] of `shard_index.ENTRY`.
    """
    found = np.empty(len(entries), LOCATED)
    framed = entries["length"].astype(np.int64) + FRAMING
    found["offset"] = np.cumsum(framed) - framed
    found["length"], found["crc"] = entries["length"], entries["crc"]
    return found


class HeldIndexes:
    """Arrays of `LOCATED` by number of their shard; those used least recently are removed.

    Thread-safe. It can be pickled, with its content.
    """

    def __init__(self, records: int):
        """Holds nothing at first, and later at most `records` rows, or one shard."""
        self._most, self._rows = records, 0
        self._held: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, shard: int) -> np.ndarray | None:
        """Returns the array of a shard, or None if it is not held."""
        with self._lock:
            if (found := self._held.get(shard)) is not None:
                self._held.move_to_end(shard)
            return found

    def put(self, shard: int, entries: np.ndarray) -> np.ndarray:
        """Holds the array of a shard, and returns it.

        Args:
          shard: its number.
          entries: array [records] of `shard_index.ENTRY`.
        """
        index = located(entries)
        with self._lock:
            if shard in self._held:  # another thread has read it too
                return self._held[shard]
            self._held[shard] = index
            self._rows += len(index) + _OVERHEAD
            while self._rows > self._most and len(self._held) > 1:
                self._rows -= len(self._held.popitem(last=False)[1]) + _OVERHEAD
        return index

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
