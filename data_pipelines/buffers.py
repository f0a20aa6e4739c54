"""Memory of batches that is used again once nothing refers to it any more.

A batch of the base model is near a gigabyte. Fresh memory of that size comes from the kernel page
by page, zeroed, which costs a loader more than any of its own steps but decoding.
"""

from __future__ import annotations

import collections
import math
import threading
from typing import Any

import numpy as np


class BufferPool:
    """Hands out arrays; their memory comes back when the last reference to it goes.

    References count wherever they are: views, other libraries that share the memory, a batch that
    is kept. Safe to use from several threads. Pickles as an empty pool.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = collections.defaultdict(list)
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Returns an array with any content, of whatever type isn't made of objects."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self._lock:
            free = self._free[size]
            memory = free.pop() if free else np.empty(size, np.uint8)
        return np.asarray(_Lease(self, memory)).view(dtype).reshape(shape)

    def give_back(self, memory: np.ndarray) -> None:
        """Takes memory that nothing refers to."""
        with self._lock:
            self._free[memory.size].append(memory)

    def __reduce__(self) -> tuple[type, tuple]:
        return BufferPool, ()


class _Lease:
    """What arrays of the pool refer to as the owner of their memory."""

    def __init__(self, pool: BufferPool, memory: np.ndarray):
        self._pool = pool
        self._memory = memory

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._memory.__array_interface__

    def __del__(self) -> None:
        self._pool.give_back(self._memory)
