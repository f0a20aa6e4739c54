"""The loader's worker processes and threads, where the config has -1 for them."""

from __future__ import annotations

import dataclasses

from data_pipelines.buffers import map_leaves
from data_pipelines.loader_config import AUTOMATIC, DataConfig, LoaderConfig
from data_pipelines.read.shared_buffers import free_shared_memory
from data_pipelines.read.views import blank_views
from data_pipelines.worker_processes import usable_cores

THREADS, THREADS_OF_WORKER = 16, 2  # of the main process, and of each worker

# Three workers for every four cores; measured with 16 cores (docs/performance.md).
_WORKERS_OF_CORE = 3 / 4
_FEWEST_CORES = 8
_CLIPS_OF_WORKER = 1000  # a core decodes them in the time in which a worker starts
_BATCHES_OF_WORKER = 3  # being made, in transfer and in use, in addition to those read ahead


def resolved(config: LoaderConfig, rows: int, clips: int, free: int | None = None) -> DataConfig:
    """Returns `config.data` with numbers in place of automatic `workers` and `threads`.

    Threads of one process share the interpreter's lock, so that many cores need several processes.
    With at least eight cores, there are three workers for every four cores. There are fewer if a
    worker would read less than 1,000 clips of an epoch, or if their batches would fill more than
    half of the free shared memory.

    Args:
      config: of the batches.
      rows: of each batch on this host.
      clips: of an epoch or a pass on this host.
      free: bytes of free shared memory; None: those of the system.
    """
    data = config.data
    workers = data.workers
    if workers == AUTOMATIC:
        cores = usable_cores()
        wanted = int(cores * _WORKERS_OF_CORE) if cores >= _FEWEST_CORES else 0
        workers = min(wanted, clips // _CLIPS_OF_WORKER)
        if workers:
            memory = free_shared_memory() if free is None else free
            batch = max(rows * _row_bytes(config), 1)
            fitting = memory // (2 * batch * (max(data.prefetch, 1) + _BATCHES_OF_WORKER))
            workers = min(workers, fitting)
    threads = threads_of(data.threads, workers)
    return dataclasses.replace(data, workers=workers, threads=threads)


def threads_of(threads: int, workers: int = 0) -> int:
    """Returns `data.threads`, or the automatic number with and without workers."""
    if threads != AUTOMATIC:
        return threads
    return THREADS_OF_WORKER if workers else THREADS


def _row_bytes(config: LoaderConfig) -> int:
    sizes: list[int] = []
    map_leaves(lambda leaf: sizes.append(getattr(leaf, "nbytes", 0)), blank_views(config))
    return sum(sizes)
