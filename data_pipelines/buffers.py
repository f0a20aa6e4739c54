"""Memory of batches and records, reused when nothing refers to it any more.

A batch of the base model has nearly a gigabyte. The kernel zeroes new memory page by page, which
takes longer than any step of the loader except decoding. The C library returns the memory of a
record to the kernel when it is freed, which interrupts all processors that run threads of the
process.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

# Bytes; on the CPU, JAX uses arrays of this alignment without a copy.
ALIGNMENT = 64


class Buffers(Protocol):
    """Allocates memory for batches. Thread-safe."""

    def empty(self, size: int) -> np.ndarray:
        """Returns uninitialized memory, uint8 [size]."""

    def pack(self, batch: dict[str, Any]) -> Any:
        """Returns the form in which a batch is passed to the main process."""


class BufferPool:
    """A pool of memory of this process; memory returns to it when nothing refers to it.

    All references count: views, other libraries that share the memory, a batch that is kept.
    Memory may return in the middle of any method, as the garbage collector can run there: the pool
    has no lock, only atomic operations.
    """

    def __init__(self) -> None:
        self._free: dict[int, collections.deque[np.ndarray]] = {}

    def empty(self, size: int) -> np.ndarray:
        """Returns uninitialized memory, uint8 [size]."""
        free = self._free.setdefault(size, collections.deque())
        try:
            memory = free.pop()
        except IndexError:
            memory = _aligned(size)
        return lease(memory, self)

    def pack(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch unchanged: it is in the memory of the main process already."""
        return batch

    def give_back(self, memory: np.ndarray) -> None:
        """Takes back memory, uint8 [size], that nothing refers to."""
        self._free[memory.size].append(memory)


def carve(memory: np.ndarray, start: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Returns an array with a shape and dtype as a view of uint8 memory from byte `start` on."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return memory[start : start + size].view(dtype).reshape(shape)


def map_leaves(function: Callable[[Any], Any], batch: dict[str, Any]) -> dict[str, Any]:
    """Returns a nested dictionary with the function applied to its leaves."""
    return {
        key: map_leaves(function, value) if isinstance(value, dict) else function(value)
        for key, value in batch.items()
    }


class Lender(Protocol):
    """The owner of memory."""

    def give_back(self, memory: np.ndarray) -> None:
        """Takes back memory, uint8 [size], that nothing refers to."""


def lease(memory: np.ndarray, lender: Lender) -> np.ndarray:
    """Returns the memory, uint8 [size]; when nothing refers to it, it goes back to the lender."""
    return np.asarray(_Lease(memory, lender))


def _aligned(size: int) -> np.ndarray:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[start : start + size]


class _Lease:
    """The base object of arrays in leased memory."""

    def __init__(self, memory: np.ndarray, lender: Lender):
        self._memory = memory
        self._lender = lender

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self._memory.__array_interface__

    def __del__(self) -> None:
        self._lender.give_back(self._memory)
