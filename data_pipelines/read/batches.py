"""Rows put together into a batch, in place and by several threads."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from data_pipelines.read.buffers import ALIGNMENT, Buffers, carve, map_leaves

# A nested dictionary of arrays, numbers and what is pending: things with a shape and dtype that a
# fill writes once their places in the batch are known.
Row = dict[str, Any]
# In bytes. Smaller arrays have memory of their own, so that who keeps one doesn't keep a batch.
_LARGE = 1 << 16
# Given what is pending in a row, each with its place.
Fill = Callable[[list[tuple[Any, np.ndarray]]], None]


class BatchLoader:
    """Maps a step to some rows of its batch; can be pickled where its rows can.

    Decoders let go of the interpreter's lock, so threads load rows side by side, and each writes
    its row to its place in the batch: no thread stacks a whole batch.
    """

    def __init__(
        self,
        load_row: Callable[[int], tuple[Row, Fill]],
        batch_size: int,
        rows: Sequence[int],
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

    def __call__(self, step: int, buffers: Buffers) -> Row:
        """Returns a batch: a row's arrays with a leading axis of rows, large ones in `buffers`."""
        positions = [int(step) * self._batch_size + row for row in self._rows]
        count = len(positions)
        if self._end is not None:
            positions = [p for p in positions if p < self._end]
        # With no position left, some row has to say what the zeros look like.
        example, fill = self._load_row(positions[0] if positions else 0)
        batch = _allocate(example, count, buffers)
        if positions:
            _put(batch, 0, example, fill)
        _clear(batch, len(positions))

        places = iter(range(1, len(positions)))

        def load(thread: int) -> None:
            try:
                for place in places:  # shared by the threads: each takes the next
                    _put(batch, place, *self._load_row(positions[place]))
            except BaseException:
                collections.deque(places, 0)  # none goes on with a batch that has failed
                raise

        if self._pool is None:
            self._pool = futures.ThreadPoolExecutor(self._threads, "load-rows")
        list(self._pool.map(load, range(self._threads)))
        return batch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


def _allocate(row: Row, count: int, buffers: Buffers) -> Row:
    """Returns a batch for `count` such rows, of any content; large arrays lie in one buffer."""
    needed = sum(_room(leaf, count) for leaf in _leaves(row))
    memory, start = buffers.empty(needed), 0

    def array(leaf: Any) -> np.ndarray:
        nonlocal start
        room, shape = _room(leaf, count), (count, *leaf.shape)
        if not room:
            return np.empty(shape, leaf.dtype)
        start += room
        return carve(memory, start - room, shape, leaf.dtype)

    return map_leaves(array, row)


def _room(leaf: Any, count: int) -> int:
    """Returns the bytes that `count` of a leaf take in a buffer; 0: they are too few for it."""
    size = count * math.prod(leaf.shape) * leaf.dtype.itemsize
    return -(-size // ALIGNMENT) * ALIGNMENT if size >= _LARGE else 0


def _leaves(row: Row) -> Iterator[Any]:
    for value in row.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value


def _put(batch: Row, place: int, row: Row, fill: Fill) -> None:
    pending: list[tuple[Any, np.ndarray]] = []
    _put_ready(batch, place, row, pending)
    if pending:
        fill(pending)


def _put_ready(batch: Row, place: int, row: Row, pending: list[tuple[Any, np.ndarray]]) -> None:
    for key, value in row.items():
        if isinstance(value, dict):
            _put_ready(batch[key], place, value, pending)
        elif isinstance(value, (np.ndarray, np.generic)):
            batch[key][place] = value
        else:
            pending.append((value, batch[key][place]))


def _clear(batch: Row, start: int) -> None:
    """Fills the rows from `start` on with zeros."""
    for array in _leaves(batch):
        array[start:] = 0
