"""Rows put together into a batch, in place and by several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np

# A nested dictionary of arrays and numbers.
Row = dict[str, Any]


class BatchLoader:
    """Maps a step to some rows of its batch; can be pickled where its rows can.

    Decoders let go of the interpreter's lock, so threads load rows side by side, and each copies
    its row to its place in the batch: no thread stacks a whole batch.
    """

    def __init__(
        self,
        load_row: Callable[[int], Row],
        batch_size: int,
        rows: range,
        threads: int,
        end: int | None = None,
    ):
        """Makes a loader.

        Args:
          load_row: gives the row at a position; the same keys, shapes and types for all.
          batch_size: positions from one step to the next.
          rows: those wanted of each batch.
          threads: that load rows.
          end: positions from here on become rows of zeros; None: there is no end.
        """
        self._load_row = load_row
        self._batch_size = batch_size
        self._rows = rows
        self._threads = max(threads, 1)
        self._end = end
        self._pool: futures.ThreadPoolExecutor | None = None

    def __call__(self, step: int) -> Row:
        """Returns a batch: a row's arrays with a leading axis of rows."""
        positions = [int(step) * self._batch_size + row for row in self._rows]
        count = len(positions)
        if self._end is not None:
            positions = [p for p in positions if p < self._end]
        # With no position left, some row has to say what the zeros look like.
        example = self._load_row(positions[0] if positions else 0)
        batch = _allocate(example, count)
        if positions:
            _put(batch, 0, example)

        def load(place: int) -> None:
            _put(batch, place, self._load_row(positions[place]))

        if self._pool is None:
            self._pool = futures.ThreadPoolExecutor(self._threads, "load-rows")
        list(self._pool.map(load, range(1, len(positions))))
        return batch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


def _allocate(row: Row, count: int) -> Row:
    """Returns zeros for `count` such rows."""
    return {
        key: _allocate(value, count)
        if isinstance(value, dict)
        else np.zeros((count, *np.shape(value)), np.asarray(value).dtype)
        for key, value in row.items()
    }


def _put(batch: Row, place: int, row: Row) -> None:
    for key, value in row.items():
        if isinstance(value, dict):
            _put(batch[key], place, value)
        else:
            batch[key][place] = value
