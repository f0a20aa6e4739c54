"""Assembles rows to batches, in place and in several threads."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grain
import numpy as np

from data_pipelines.buffers import ALIGNMENT, Buffers, carve, map_leaves

# A nested dictionary of arrays, numbers and pending values: objects with shape and dtype whose
# content a `Fill` writes into the batch.
Row = dict[str, Any]
# Bytes. Smaller arrays have separate memory, so that keeping one does not keep the whole batch.
_LARGE = 1 << 16
# Rows that a thread reads before it fills them: decoding evicts the interpreter's code and objects
# from the processor's cache, and reading takes half of the time when they are there.
_ROWS_AT_ONCE = 8
# Called with the pending values of a row, each with its array in the batch.
Fill = Callable[[list[tuple[Any, np.ndarray]]], None]


class BatchInPlace(grain.MapDataset):
    """Groups the rows of its parent into batches in threads; replaces `grain.MapDataset.batch`.

    Grain's `batch` reads the rows of a batch in one thread and then stacks copies of them. Here
    each thread reads a row and writes it directly into the batch; decoders release the GIL, so
    threads run in parallel. Rows past the end of the parent are zeros.
    """

    def __init__(
        self,
        parent: grain.MapDataset,
        batch_size: int,
        rows: Sequence[int],
        threads: int,
        buffers: Buffers,
    ):
        """Creates the data set of batches.

        Args:
          parent: its elements are (`Row`, `Fill`), with equal keys, shapes and dtypes.
          batch_size: rows of the global batch.
          rows: indices of this host's rows in the global batch.
          threads: number of threads that load the rows of a batch.
          buffers: memory for large arrays.
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
        # Without positions, the first element defines shapes and dtypes of the zeros.
        example, fill = parent[positions[0] if positions else 0]
        batch = _allocate(example, count, self._buffers)
        if positions:
            _put(batch, 0, example, fill)
        _clear(batch, len(positions))

        rows = len(positions)
        count = min(max(rows // (4 * self._threads), 1), _ROWS_AT_ONCE)
        groups = iter([range(i, min(i + count, rows)) for i in range(1, rows, count)])

        def load(thread: int) -> None:
            try:
                for group in groups:  # the iterator is shared by the threads
                    found = [parent[positions[place]] for place in group]
                    for place, row in zip(group, found, strict=True):
                        _put(batch, place, *row)
                    del found, row  # with the memory of their records
            except BaseException:
                collections.deque(groups, 0)  # exhausts the iterator, which stops the other threads
                raise

        if self._pool is None:
            self._pool = futures.ThreadPoolExecutor(self._threads, "load-rows")
        list(self._pool.map(load, range(self._threads)))
        return batch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


def _allocate(row: Row, count: int, buffers: Buffers) -> Row:
    """Returns an uninitialized batch of `count` such rows; large arrays share one buffer."""
    needed = sum(_buffer_bytes(leaf, count) for leaf in _leaves(row))
    memory, start = buffers.empty(needed), 0

    def array(leaf: Any) -> np.ndarray:
        nonlocal start
        size, shape = _buffer_bytes(leaf, count), (count, *leaf.shape)
        if not size:
            return np.empty(shape, leaf.dtype)
        start += size
        return carve(memory, start - size, shape, leaf.dtype)

    return map_leaves(array, row)


def _buffer_bytes(leaf: Any, count: int) -> int:
    """Returns the bytes in the buffer for `count` values of a leaf; 0 for small arrays."""
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
