"""Shared memory of batches: written by worker processes, read by the main process without a copy.

Grain allocates new shared memory for each array of a batch; docs/data.md has the cost of these
pages. Here blocks of shared memory are reused: a flag at the start of a block marks it as in use.
The worker that created the block sets the flag, and the main process clears it when nothing refers
to the batch any more.

Blocks are named `NAME_0`, `NAME_1`, ... in the order of creation by any worker, so that the main
process can remove all of them, also those of a killed worker. If the main process is killed too,
Python's resource tracker removes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
import os
import secrets
import threading
from collections.abc import Iterator
from multiprocessing import shared_memory
from typing import Any

import numpy as np

from data_pipelines.buffers import ALIGNMENT, carve, lease, map_leaves
from data_pipelines.errors import UserError

# Bytes before the content of a block, for the flag.
_HEADER = ALIGNMENT
_FREE, _IN_USE = 0, 1
# Folder of shared memory on Linux.
_FOLDER = "/dev/shm"


@dataclasses.dataclass(frozen=True)
class SharedArray:
    """Reference to an array in a block of shared memory, which is sent between processes."""

    block: str
    block_size: int
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class SharedBatch:
    """A batch of `SharedArray`s; opaque to Grain, which would copy the arrays of a dictionary."""

    batch: dict[str, Any]


class _Block:
    """A block of shared memory, mapped into this process while something refers to it."""

    def __init__(self, shared: shared_memory.SharedMemory, size: int):
        self._shared = shared
        self._flag = np.ndarray(1, np.uint8, shared.buf)
        self.memory: np.ndarray = np.ndarray(size, np.uint8, shared.buf, _HEADER)
        self.name, self.size = shared.name, size

    @property
    def in_use(self) -> bool:
        return self._flag[0] == _IN_USE

    def take(self) -> None:
        """Marks the block as in use."""
        self._flag[0] = _IN_USE

    def give_back(self, memory: np.ndarray) -> None:
        """Marks the block as free; see `buffers.Lender`."""
        self._flag[0] = _FREE

    def __del__(self) -> None:
        # Shared memory can't be closed while an array refers to it.
        del self._flag, self.memory
        self._shared.close()


class SharedBufferPool:
    """A pool of shared memory in a worker process; the main process returns memory to it.

    Thread-safe. A pickled pool is empty.
    """

    def __init__(self, name: str):
        """Creates a pool without blocks.

        Args:
          name: `SharedBlocks.name`.
        """
        self._name = name
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return SharedBufferPool, (self._name,)

    def empty(self, size: int) -> np.ndarray:
        """Returns uninitialized memory, uint8 [size].

        Raises:
          UserError: there is not enough shared memory.
        """
        if not size:  # no array would refer to it, so it would never be returned
            return np.empty(0, np.uint8)
        with self._lock:
            for block in self._blocks:
                if block.size == size and not block.in_use:
                    break
            else:
                block = self._new(size)
                self._blocks.append(block)
            block.take()
        return block.memory

    def _new(self, size: int) -> _Block:
        for name in _names(self._name):
            try:
                with _no_garbage_collection():
                    shared = shared_memory.SharedMemory(name, create=True, size=_HEADER + size)
            except FileExistsError:  # created by another worker
                continue
            except OSError as error:
                raise _no_memory(size, error) from None
            try:
                _reserve(name, size)
            except OSError as error:
                # The main process removes this empty block with the others. Removal here would
                # leave a gap in the names, or another worker could reuse the name, which would
                # confuse the resource tracker.
                shared.close()
                raise _no_memory(size, error) from None
            return _Block(shared, size)
        raise AssertionError("unreachable: the names are infinite")

    def pack(self, batch: dict[str, Any]) -> SharedBatch:
        """Returns a batch as it is sent to the main process."""
        return SharedBatch(self.references(batch))

    def references(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns a batch with a `SharedArray` in place of each array in memory of the pool."""
        return map_leaves(self._shared, batch)

    def _shared(self, array: np.ndarray) -> SharedArray | np.ndarray:
        for block in self._blocks:
            start = _address(array) - _address(block.memory)
            if 0 <= start < block.size:
                return SharedArray(block.name, block.size, start, array.shape, array.dtype)
        return array


class SharedBlocks:
    """The shared memory of all workers' pools, as mapped in the main process.

    Attributes:
      name: prefix of the blocks' names, unique on this machine.
    """

    def __init__(self) -> None:
        self.name = f"xkd{secrets.token_hex(6)}"
        self._blocks: dict[str, _Block] = {}

    def open(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns a batch with the array of each `SharedArray`.

        A block becomes free when nothing refers to its arrays in the batch any more.
        """
        leases: dict[str, np.ndarray] = {}

        def opened(value: Any) -> Any:
            if not isinstance(value, SharedArray):
                return value
            if value.block not in leases:
                leases[value.block] = self._lease(value.block, value.block_size)
            return carve(leases[value.block], value.start, value.shape, value.dtype)

        return map_leaves(opened, batch)

    def _lease(self, name: str, size: int) -> np.ndarray:
        if name not in self._blocks:
            with _no_garbage_collection():
                shared = shared_memory.SharedMemory(name)
            self._blocks[name] = _Block(shared, size)
        block = self._blocks[name]
        return lease(block.memory, block)

    def close(self) -> None:
        """Removes the names of all blocks; arrays in use keep their memory.

        Must be called after the workers have ended.
        """
        self._blocks.clear()
        for name in _names(self.name):
            try:
                with _no_garbage_collection():
                    block = shared_memory.SharedMemory(name)
                    block.close()
                    block.unlink()
            except FileNotFoundError:
                return


def free_shared_memory() -> int:
    """Returns the bytes of shared memory that are free; 0 on systems other than Linux."""
    try:
        found = os.statvfs(_FOLDER)
    except (AttributeError, OSError):
        return 0
    return found.f_bavail * found.f_frsize


def _no_memory(size: int, error: OSError) -> UserError:
    return UserError(
        f"There is not enough shared memory for a batch of {size / 2**20:.0f} MB"
        f" ({error.strerror}): raise its limit (docker run --shm-size=16g), or set data.workers=0."
    )


def _reserve(name: str, size: int) -> None:
    """Allocates the pages of a block: a write to a page that can't be allocated kills the process.

    Raises:
      OSError: there is not enough memory.
    """
    path = os.path.join(_FOLDER, name)
    if os.path.exists(path):  # on Linux
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, _HEADER + size)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Prevents that finalizers of semaphores call Python's resource tracker recursively."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _names(name: str) -> Iterator[str]:
    return (f"{name}_{number}" for number in itertools.count())


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
