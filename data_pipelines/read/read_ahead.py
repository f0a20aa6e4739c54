"""Batches of a Grain pipeline, whose worker processes are started again when they are lost.

With Grain alone a run ends when a worker dies, and waits without end when one hangs. Here a worker
that dies, or gives nothing for `data.worker_timeout` seconds and is killed for it, costs no batch:
since a batch is a function of its step, new workers continue at the step that is due. If those and
the next are lost too before that batch, the run ends.
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
    data: DataConfig, pipeline: Callable[[Buffers, int], grain.IterDataset], start_step: int
) -> Generator[Batch]:
    """Yields the batch of each step, in order; closing the iterator stops threads and processes.

    Args:
      data: `workers` says whether the pipeline runs in worker processes, and `worker_timeout` how
        long they may give nothing.
      pipeline: (buffers, first step) -> packed batches from that step on, their large arrays in
        memory of the buffers; see `Buffers.pack`. Called again after workers were lost.
      start_step: of the first batch.

    Raises:
      UserError: of the pipeline.
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
                    f"The loader's worker processes were lost {_STARTS} times while batch {due} was"
                    f" due (the last {loss}): start the run again, and if it ends at this batch"
                    " again, lower data.workers or data.threads in case memory is short, or set"
                    " data.workers=0 to see the fault."
                ) from None
            starts += 1
            terminal.print_text(f"A loader's worker process {loss}; starting again at batch {due}.")
        finally:
            batches.close()


def _batches(
    data: DataConfig, pipeline: Callable[[Buffers, int], grain.IterDataset], start_step: int
) -> Generator[Batch]:
    """Yields the batches of one start of the threads or workers.

    Raises:
      _WorkerLostError: one died, or hung and was killed.
    """
    if not data.workers:
        with contextlib.closing(iter(pipeline(BufferPool(), start_step))) as iterator:
            yield from _watched(iterator, data)
        return
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers ask for a flag of theirs
    blocks = SharedBlocks()
    try:
        dataset = pipeline(SharedBufferPool(blocks.name), start_step)
        with contextlib.closing(iter(dataset)) as iterator:
            for shared in _watched(iterator, data):
                yield blocks.open(shared.batch)
    finally:
        blocks.close()


def prepare_worker(index: int, count: int) -> None:
    """Makes a worker process live exactly as long as the main process needs it.

    Grain's workers end at a signal to the group, and outlive a main process that was killed.

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
        terminal.print_text(
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
