"""Memory of batches that worker processes write and the main process reads, without a copy.

Grain puts each array of a batch into fresh shared memory and drops it after use; docs/data.md has
what the kernel's work with those pages costs. Here a block of shared memory serves one batch after
another: a mark at its beginning tells whether it is in use. The worker that made the block sets the
mark, and the main process clears it when nothing refers to the batch any more.

Blocks are named `NAME_0`, `NAME_1`, ... by whichever worker makes the next one, so that the main
process can remove all of them, those of a worker that was killed as well. Should the main process
be killed too, Python's resource tracker does.
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

from data_pipelines.errors import UserError
from data_pipelines.read.buffers import ALIGNMENT, carve, lease, map_leaves

# Where a block's content begins; before it there is only the mark.
_HEADER = ALIGNMENT
_FREE, _IN_USE = 0, 1
# Where Linux shows shared memory.
_FOLDER = "/dev/shm"


@dataclasses.dataclass(frozen=True)
class SharedArray:
    """Where an array lies in a block of shared memory; what travels between processes."""

    block: str
    block_size: int
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class SharedBatch:
    """A batch of `SharedArray`s; no container to Grain, which would copy the small arrays too."""

    batch: dict[str, Any]


class _Block:
    """A block of shared memory, mapped into this process for as long as it is referred to."""

    def __init__(self, shared: shared_memory.SharedMemory, size: int):
        self._shared = shared
        self._mark = np.ndarray(1, np.uint8, shared.buf)
        self.memory: np.ndarray = np.ndarray(size, np.uint8, shared.buf, _HEADER)
        self.name, self.size = shared.name, size

    @property
    def in_use(self) -> bool:
        return self._mark[0] == _IN_USE

    def take(self) -> None:
        """Marks it as in use."""
        self._mark[0] = _IN_USE

    def give_back(self, memory: np.ndarray) -> None:
        """Marks it as free: the lender of `buffers.lease`."""
        self._mark[0] = _FREE

    def __del__(self) -> None:
        # Shared memory can't be closed while an array refers to it.
        del self._mark, self.memory
        self._shared.close()


class SharedBufferPool:
    """Hands out shared memory in a worker process, again once the main process is done with it.

    Safe to use from several threads. Pickles as an empty pool.
    """

    def __init__(self, name: str):
        """Makes a pool without blocks.

        Args:
          name: `SharedBlocks.name`.
        """
        self._name = name
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return SharedBufferPool, (self._name,)

    def empty(self, size: int) -> np.ndarray:
        """Returns uint8 [size] with any content.

        Raises:
          UserError: there is no more shared memory.
        """
        if not size:  # no array could lie there, so that nobody would ever give it back
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
            except FileExistsError:  # another worker's
                continue
            except OSError as error:
                raise _no_memory(size, error) from None
            try:
                _reserve(name, size)
            except OSError as error:
                # The block holds no pages, and the main process removes it with the others. If it
                # went now, another worker could take its name, which the resource tracker would
                # miss later, and the names would have a gap.
                shared.close()
                raise _no_memory(size, error) from None
            return _Block(shared, size)
        raise AssertionError("names don't end")

    def pack(self, batch: dict[str, Any]) -> SharedBatch:
        """Returns a batch as it travels to the main process."""
        return SharedBatch(self.share(batch))

    def share(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns a batch with a `SharedArray` for each array in memory of the pool."""
        return map_leaves(self._shared, batch)

    def _shared(self, array: np.ndarray) -> SharedArray | np.ndarray:
        for block in self._blocks:
            start = _address(array) - _address(block.memory)
            if 0 <= start < block.size:
                return SharedArray(block.name, block.size, start, array.shape, array.dtype)
        return array


class SharedBlocks:
    """What the main process sees of the memory that its workers' pools hand out.

    Attributes:
      name: of the blocks; no others on this machine begin so.
    """

    def __init__(self) -> None:
        self.name = f"xkd{secrets.token_hex(6)}"
        self._blocks: dict[str, _Block] = {}

    def open(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns a batch with each `SharedArray` as the array that it stands for.

        Its block is free again when nothing refers to any of its arrays in the batch.
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
        """Removes all blocks; what refers to one keeps it, nameless, until it goes.

        To be called when the workers have ended.
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


def _no_memory(size: int, error: OSError) -> UserError:
    return UserError(
        f"There is no shared memory for a batch of {size / 2**20:.0f} MB ({error.strerror}): give"
        " the container more (docker run --shm-size=16g), or set data.workers=0."
    )


def _reserve(name: str, size: int) -> None:
    """Takes a block's pages now; one that is missing when it is written ends the process.

    Raises:
      OSError: they are not there.
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
    """Keeps semaphores that are garbage from calling Python's resource tracker within its calls."""
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
