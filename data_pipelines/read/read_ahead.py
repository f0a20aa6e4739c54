"""Reads batches of a Grain pipeline ahead, and restarts lost worker processes.

With Grain alone, a run fails when a worker dies, and waits forever when one hangs. Here workers
that die, or return no batch for `data.worker_timeout` seconds and are killed, are replaced: as a
batch is a function of its step, new workers continue at the next step, and no batch is lost. If the
workers for one step are lost three times, the run ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grain
from absl import flags

from data_pipelines import terminal, worker_processes
from data_pipelines.buffers import BufferPool, Buffers
from data_pipelines.errors import LostProcessError
from data_pipelines.loader_config import DataConfig
from data_pipelines.read.shared_buffers import SharedBlocks, SharedBufferPool

Batch = dict[str, Any]
# Grain's name of worker processes, and the start of its error message when one died.
_WORKER_NAME = "grain-process-prefetch"
_WORKER_DIED = "Worker process was terminated unexpectedly"
_STARTS = 3  # of workers for one batch
CLOSING_SECONDS = 10.0  # until workers that do not end are killed


class _WorkerLostError(Exception):
    """A worker process died, or hung and was killed; the text is the reason."""


def read_ahead(
    data: DataConfig, pipeline: Callable[[Buffers, int], grain.IterDataset], start_step: int
) -> Generator[Batch]:
    """Yields the batch of each step in order; closing the iterator stops threads and processes.

    Args:
      data: uses `workers` (0: threads of this process; not -1) and `worker_timeout` (seconds).
      pipeline: (buffers, first step) -> data set of packed batches from that step on, with large
        arrays in memory of the buffers; see `Buffers.pack`. Called again after a loss of workers.
      start_step: of the first batch.

    Raises:
      UserError: raised by the pipeline.
      LostProcessError: worker processes died or hung three times at the same step.
    """
    due, starts = start_step, 1
    while True:
        batches = _batches(data, pipeline, due)
        try:
            for batch in batches:
                yield batch
                due, starts = due + 1, 1
            return
        except _WorkerLostError as loss:
            if starts == _STARTS:
                raise LostProcessError(
                    f"The loader's worker processes were lost {_STARTS} times at batch {due} (last"
                    f" reason: {loss}): repeat the command; if it fails at this batch again, lower"
                    " data.workers or data.threads to save memory, or set data.workers=0 to see"
                    " the error."
                ) from None
            starts += 1
            terminal.print_text(
                f"A worker process of the loader {loss}: restarting the workers at batch {due}."
            )
        finally:
            batches.close()


def _batches(
    data: DataConfig, pipeline: Callable[[Buffers, int], grain.IterDataset], start_step: int
) -> Generator[Batch]:
    """Yields batches until the threads or workers end.

    Raises:
      _WorkerLostError: a worker died, or hung and was killed.
    """
    if not data.workers:
        with contextlib.closing(iter(pipeline(BufferPool(), start_step))) as iterator:
            yield from _watched(iterator, data)
        return
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read an absl flag
    blocks = SharedBlocks()
    try:
        iterator = iter(pipeline(SharedBufferPool(blocks.name), start_step))
        try:
            for shared in _watched(iterator, data):
                yield blocks.open(shared.batch)
        finally:
            with _alarm(CLOSING_SECONDS, _kill_workers):  # Grain waits for a hanging one
                iterator.close()
    finally:
        blocks.close()


def prepare_worker(index: int, count: int) -> None:
    """Sets up a worker process: it ignores stop signals, and ends with the main process.

    Terminals and schedulers send stop signals to the whole process group; only the main process
    must handle them. By default, Grain's workers end at such a signal, and survive a main process
    that was killed.

    Args:
      index: of the worker, from 0.
      count: number of workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    worker_processes.end_with_parent()


def _watched(iterator: Iterator[Any], data: DataConfig) -> Iterator[Any]:
    """Yields the values of an iterator; raises `_WorkerLostError` when its worker is lost."""
    hung = threading.Event()

    def kill() -> None:
        hung.set()
        _kill_workers()

    def warn() -> None:
        """Prints a warning only, as a thread can't be ended."""
        terminal.print_text(
            f"The loader has returned no batch for {data.worker_timeout:g} s: check its storage, or"
            " set data.workers above 0, so that reading restarts after such a time."
        )

    while True:
        try:
            with _alarm(data.worker_timeout, kill if data.workers else warn):
                batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith(_WORKER_DIED):
                raise
            if hung.is_set():
                raise _WorkerLostError(f"returned no batch for {data.worker_timeout:g} s") from None
            code = str(error).partition("exit code ")[2].split(".")[0]
            raise _WorkerLostError(f"died with exit code {code}") from None
        yield batch


def _kill_workers() -> None:
    """Kills all loader workers; those of other iterators are restarted."""
    for process in multiprocessing.active_children():
        if process.name.startswith(_WORKER_NAME):
            process.kill()


@contextlib.contextmanager
def _alarm(seconds: float, ring: Callable[[], None]) -> Iterator[None]:
    """Calls `ring` in another thread if the block lasts longer than `seconds`."""
    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
