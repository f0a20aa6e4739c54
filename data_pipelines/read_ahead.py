"""Batches made ahead of their use, in threads of this process or in worker processes.

A worker process that dies, or gives nothing for `data.worker_timeout` seconds and is killed for it,
costs no batch: since a batch is a function of its step, new workers go on from the step that is
due. If they die too before that batch, the run ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grain
from absl import flags

from xkd_jax.config import DataConfig
from xkd_jax.errors import UserError

Batch = dict[str, Any]
# How Grain names its worker processes, and begins its error when one of them died.
_WORKER_NAME = "grain-process-prefetch"
_WORKER_DIED = "Worker process was terminated unexpectedly"


class _WorkerLostError(Exception):
    """A worker process died, or was killed because it hung; says which."""


def read_ahead(data: DataConfig, load: Callable[[int], Batch], steps: range) -> Generator[Batch]:
    """Yields the batch of each step, in order; closing the iterator stops threads and processes.

    Args:
      data: `workers` and `prefetch`, the batches that are read ahead in this process or in each
        worker.
      load: makes the batch of a step; can be pickled where there are workers.
      steps: those wanted.

    Raises:
      UserError: of `load`, or worker processes died or hung twice at the same step.
    """
    due, lost_at = steps.start, None
    while due < steps.stop:
        iterator = _start(data, load, range(due, steps.stop))
        try:
            for batch in _watched(iterator, data):
                yield batch
                due += 1
        except _WorkerLostError as loss:
            if lost_at == due:
                raise UserError(
                    f"The loader's worker processes were lost twice while batch {due} was due (the"
                    f" last {loss}): lower data.workers or data.threads if memory is short, or set"
                    " data.workers=0 to see the fault."
                ) from None
            lost_at = due
            print(f"A loader's worker process {loss}; starting again at batch {due}.", flush=True)
        finally:
            iterator.close()


def _start(data: DataConfig, load: Callable[[int], Batch], steps: range) -> Any:
    ahead = max(data.prefetch, 1)
    read = grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead)
    dataset = grain.MapDataset.range(steps.start, steps.stop).map(load).to_iter_dataset(read)
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers ask for a flag of its own
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(data.workers))
    return iter(dataset)


def _watched(iterator: Iterator[Batch], data: DataConfig) -> Iterator[Batch]:
    """Yields what an iterator does; raises `_WorkerLostError` where a worker of it is lost."""
    hung = threading.Event()

    def kill() -> None:
        """Ends the workers; those of another iterator in use start again too, and lose nothing."""
        hung.set()
        for process in multiprocessing.active_children():
            if process.name.startswith(_WORKER_NAME):
                process.kill()

    while True:
        try:
            with _alarm(data.worker_timeout, kill) if data.workers else contextlib.nullcontext():
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
