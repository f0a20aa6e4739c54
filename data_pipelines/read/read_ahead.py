"""Batches made ahead of their use, in threads of this process or in worker processes.

A worker process that dies, or gives nothing for `data.worker_timeout` seconds and is killed for it,
costs no batch: since a batch is a function of its step, new workers go on from the step that is
due. If those and the next are lost too before that batch, the run ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grain
from absl import flags

from data_pipelines import terminal, worker_processes
from data_pipelines.errors import LostProcessError
from data_pipelines.loader_config import DataConfig
from data_pipelines.read.buffers import BufferPool, Buffers
from data_pipelines.read.shared_buffers import SharedBlocks, SharedBufferPool

Batch = dict[str, Any]
# How Grain names its worker processes, and begins its error when one of them died.
_WORKER_NAME = "grain-process-prefetch"
_WORKER_DIED = "Worker process was terminated unexpectedly"
_STARTS = 3  # of workers for the sake of one batch


class _WorkerLostError(Exception):
    """A worker process died, or was killed because it hung; says which."""


def read_ahead(
    data: DataConfig, load: Callable[[int, Buffers], Batch], steps: range
) -> Generator[Batch]:
    """Yields the batch of each step, in order; closing the iterator stops threads and processes.

    Args:
      data: `workers` and `prefetch`, the batches that are read ahead in this process or in each
        worker.
      load: makes the batch of a step, its large arrays in memory of the buffers; can be pickled
        where there are workers.
      steps: those wanted.

    Raises:
      UserError: of `load`.
      LostProcessError: worker processes died or hung three times at the same step.
    """
    due, starts = steps.start, 1
    while due < steps.stop:
        batches = _batches(data, load, range(due, steps.stop))
        try:
            for batch in batches:
                yield batch
                due, starts = due + 1, 1
        except _WorkerLostError as loss:
            if starts == _STARTS:
                raise LostProcessError(
                    f"The loader's worker processes were lost {_STARTS} times while batch {due} was"
                    f" due (the last {loss}): start the run again, and if it ends at this batch"
                    " again, lower data.workers or data.threads in case memory is short, or set"
                    " data.workers=0 to see the fault."
                ) from None
            starts += 1
            terminal.say(f"A loader's worker process {loss}; starting again at batch {due}.")
        finally:
            batches.close()


def _batches(
    data: DataConfig, load: Callable[[int, Buffers], Batch], steps: range
) -> Generator[Batch]:
    """Yields the batches of one start of the threads or workers.

    Raises:
      _WorkerLostError: one died, or hung and was killed.
    """
    if not data.workers:
        pool = BufferPool()
        with contextlib.closing(_start(data, lambda step: load(step, pool), steps)) as iterator:
            yield from _watched(iterator, data)
        return
    blocks = SharedBlocks()
    try:
        started = _start(data, _LoadShared(load, blocks.name), steps)
        with contextlib.closing(started) as iterator:
            for shared in _watched(iterator, data):
                yield blocks.open(shared.batch)
    finally:
        blocks.close()


@dataclasses.dataclass(frozen=True)
class _Shared:
    """A batch on its way to the main process; a class of its own, that Grain doesn't look into."""

    batch: Batch


class _LoadShared:
    """Makes batches in a worker process, in memory that the main process can read."""

    def __init__(self, load: Callable[[int, Buffers], Batch], name: str):
        self._load = load
        self._pool = SharedBufferPool(name)

    def __call__(self, step: int) -> _Shared:
        return _Shared(self._pool.share(self._load(step, self._pool)))


def _start(data: DataConfig, load: Callable[[int], Any], steps: range) -> Any:
    ahead = max(data.prefetch, 1)
    read = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
    dataset = grain.MapDataset.range(steps.start, steps.stop).map(load).to_iter_dataset(read)
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers ask for a flag of its own
        options = grain.MultiprocessingOptions(data.workers)
        dataset = dataset.mp_prefetch(options, _prepare_worker)
    return iter(dataset)


def _prepare_worker(index: int, count: int) -> None:
    """Makes a worker process live exactly as long as the main process wants it.

    A signal to stop goes to the whole process group, from a terminal or a scheduler, and is the
    main process' to act on.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    worker_processes.end_with_parent()


def _watched(iterator: Iterator[Any], data: DataConfig) -> Iterator[Any]:
    """Yields what an iterator does; raises `_WorkerLostError` where a worker of it is lost."""
    hung = threading.Event()

    def kill() -> None:
        """Ends the workers; those of another iterator in use start again too, and lose nothing."""
        hung.set()
        for process in multiprocessing.active_children():
            if process.name.startswith(_WORKER_NAME):
                process.kill()

    def say() -> None:
        """A thread can't be ended, so a read that hangs may only be told of."""
        terminal.say(
            f"The loader has given nothing for {data.worker_timeout:g} s: is its storage there?"
            " With data.workers above 0 it would start again by itself."
        )

    while True:
        try:
            with _alarm(data.worker_timeout, kill if data.workers else say):
                batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith(_WORKER_DIED):
                raise
            if hung.is_set():
                raise _WorkerLostError(f"gave nothing for {data.worker_timeout:g} s") from None
            code = str(error).partition("exit code ")[2].split(".")[0]
            raise _WorkerLostError(f"died with exit code {code}") from None
        yield batch


@contextlib.contextmanager
def _alarm(seconds: float, ring: Callable[[], None]) -> Iterator[None]:
    """Calls `ring` in another thread if the context lasts longer than that."""
    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
