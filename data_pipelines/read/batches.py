"""Rows put together into a batch, in place and by several threads."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grain
import numpy as np

from data_pipelines.read.buffers import ALIGNMENT, Buffers, carve, map_leaves

# A nested dictionary of arrays, numbers and what is pending: things with a shape and dtype that a
# fill writes once their places in the batch are known.
Row = dict[str, Any]
# In bytes. Smaller arrays have memory of their own, so that who keeps one doesn't keep a batch.
_LARGE = 1 << 16
# Given what is pending in a row, each with its place.
Fill = Callable[[list[tuple[Any, np.ndarray]]], None]


class BatchInPlace(grain.MapDataset):
    """Groups the rows of its parent into batches, as `grain.MapDataset.batch` does, in threads.

    Grain's `batch` reads the rows of a batch one after the other, holds all of them and stacks them
    in one thread. Here each thread reads a row and writes it to its place in the batch; decoders
    release the interpreter's lock, so the threads run at the same time. A batch past the end of the
    parent is filled up with rows of zeros.
    """

    def __init__(
        self,
        parent: grain.MapDataset,
        batch_size: int,
        rows: Sequence[int],
        threads: int,
        buffers: Buffers,
    ):
        """Makes the data set of batches.

        Args:
          parent: gives a row and its fill, (`Row`, `Fill`); the same keys, shapes and dtypes for
            all.
          batch_size: elements of the parent from one batch to the next.
          rows: those wanted of each batch: this host's.
          threads: that load the rows of a batch.
          buffers: where large arrays are put.
        """
        super().__init__(parent)
        self._batch_size = batch_size
        self._rows = rows
        self._threads = max(threads, 1)
        self._buffers = buffers
        self._pool: futures.ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return -(-len(self.parents[0]) // self._batch_size)

    def __getitem__(self, index: Any) -> Any:
        """Returns batch `index`: a row's arrays with a leading axis of rows."""
        if isinstance(index, slice):
            return self.slice(index)
        (parent,) = self.parents
        positions = [int(index) * self._batch_size + row for row in self._rows]
        count = len(positions)
        positions = [p for p in positions if p < len(parent)]
        # With no position left, the first element tells shapes and dtypes of the zeros.
        example, fill = parent[positions[0] if positions else 0]
        batch = _allocate(example, count, self._buffers)
        if positions:
            _put(batch, 0, example, fill)
        _clear(batch, len(positions))

        places = iter(range(1, len(positions)))

        def load(thread: int) -> None:
            try:
                for place in places:  # shared by the threads: each takes the next
                    _put(batch, place, *parent[positions[place]])
            except BaseException:
                collections.deque(places, 0)  # the other threads stop too
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
