"""Memory of batches that is used again once nothing refers to it any more.

A batch of the base model is near a gigabyte. Fresh memory of that size comes from the kernel page
by page, zeroed, which costs a loader more than any of its own steps but decoding.
"""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

# Bytes; JAX takes an array of this alignment as it is where the device is the CPU.
ALIGNMENT = 64


class Buffers(Protocol):
    """What gives memory for batches; safe to use from several threads."""

    def empty(self, size: int) -> np.ndarray:
        """Returns uint8 [size] with any content."""

    def pack(self, batch: dict[str, Any]) -> Any:
        """Returns a batch in its memory as it is handed to the main process."""


class BufferPool:
    """Hands out memory of this process, which comes back when the last reference to it goes.

    References count wherever they are: views, other libraries that share the memory, a batch that
    is kept.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = collections.defaultdict(list)
        self._lock = threading.Lock()

    def empty(self, size: int) -> np.ndarray:
        """Returns uint8 [size] with any content."""
        with self._lock:
            free = self._free[size]
            memory = free.pop() if free else _aligned(size)
        return lease(memory, self)

    def pack(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch: its memory is the main process' already."""
        return batch

    def give_back(self, memory: np.ndarray) -> None:
        """Takes memory that nothing refers to."""
        with self._lock:
            self._free[memory.size].append(memory)


def carve(memory: np.ndarray, start: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns the array of a shape and type that begins at a byte of uint8 memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return memory[start : start + size].view(dtype).reshape(shape)


def map_leaves(function: Callable[[Any], Any], batch: dict[str, Any]) -> dict[str, Any]:
    """Returns a nested dictionary with a function's results in place of its values."""
    return {
        key: map_leaves(function, value) if isinstance(value, dict) else function(value)
        for key, value in batch.items()
    }


class Lender(Protocol):
    """Whose the memory of a lease is."""

    def give_back(self, memory: np.ndarray) -> None:
        """Takes memory that nothing refers to."""


def lease(memory: np.ndarray, lender: Lender) -> np.ndarray:
    """Returns the same memory, given back to its lender when the last reference to it goes."""
    return np.asarray(_Lease(memory, lender))


def _aligned(size: int) -> np.ndarray:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[start : start + size]


class _Lease:
    """What arrays refer to as the owner of their memory."""

    def __init__(self, memory: np.ndarray, lender: Lender):
        self._memory = memory
        self._lender = lender

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._memory.__array_interface__

    def __del__(self) -> None:
        self._lender.give_back(self._memory)
