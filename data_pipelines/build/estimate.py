"""The time and the disk space that a build will take, from a sample of its files."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.build import build_state, builder, file_records
from data_pipelines.build.build_plan import BuildPlan
from data_pipelines.build.catalogs.catalog import Item
from data_pipelines.build.file_workers import FileWorkers
from data_pipelines.build.ingest import IngestOptions, ingest
from data_pipelines.format import log_mel, shard_index, storage, tfrecord

# Number of files of the sample: this fraction of all, within these limits.
_FRACTION, _FEWEST, _MOST = 0.1, 2, 64
SECONDS = 15.0  # after which the sample ends, if it has a result
_MOST_SIZES = 10_000  # files whose sizes are read
_PER_RECORD = tfrecord.FRAMING + shard_index.ENTRY.itemsize


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one file took: seconds of a worker, and bytes in the shard (0: it has no record)."""

    seconds: float
    size: int


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate for a number of files.

    Attributes:
      files: to be built.
      sampled: number of them that were tried.
      seconds: for all files, with the given number of workers.
      size: of the records of all files, in bytes; 0: no file of the sample has one.
    """

    files: int
    sampled: int
    seconds: float
    size: float


def estimate(
    plan: BuildPlan,
    items: Sequence[Item],
    output: str,
    workers: int,
    tick: Callable[[], None] = lambda: None,
) -> Estimate:
    """Converts a few files, without writing shards, and extrapolates by the sizes of the files.

    Args:
      plan: that was started in `output`; its shards have files in random order.
      items: files to be built, in the order of the shards.
      output: the folder (or URL).
      workers: number of processes of the build.
      tick: called about every second; an error that it raises ends the sample.
    """
    if not items:
        return Estimate(0, 0, 0.0, 0.0)
    sample = _spread(items, min(max(round(_FRACTION * len(items)), _FEWEST), _MOST))
    costs = _measure(plan, sample, output, workers, tick)
    sizes = _sizes(plan.source, sample[: len(costs)])
    others = _sizes(plan.source, _spread(items, _MOST_SIZES))
    scale = sum(others) / len(others) * len(items) / sum(sizes)
    seconds = scale * sum(cost.seconds for cost in costs) / min(workers, len(items))
    return Estimate(len(items), len(costs), seconds, scale * sum(cost.size for cost in costs))


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Returns some of the items, at equal distances."""
    count = min(count, len(items))
    return [items[len(items) * i // count] for i in range(count)]


def _sizes(source: str, items: Sequence[Item]) -> list[float]:
    """Returns bytes of files, at least 1; 1 for each file behind a URL, as it costs a request."""
    if storage.is_remote(source):
        return [1.0] * len(items)
    found = []
    for item in items:
        try:
            found.append(max(1.0, os.stat(storage.join(source, item.path)).st_size))
        except OSError:  # the build lists it as missing
            found.append(1.0)
    return found


class _EnoughError(Exception):
    """The sample has taken long enough."""


def _measure(
    plan: BuildPlan,
    sample: Sequence[Item],
    output: str,
    workers: int,
    tick: Callable[[], None],
) -> list[Cost]:
    costs: list[Cost] = []
    start = time.monotonic()

    def watch() -> None:
        tick()
        if costs and time.monotonic() - start > SECONDS:
            raise _EnoughError

    with build_state.waiting_folder(output) as waiting:
        work = functools.partial(
            measure, directory=plan.source, options=plan.options, waiting=waiting
        )
        with FileWorkers(work, _lost, workers, builder.TIMEOUT, lambda cost: 0) as pool:
            try:
                for cost in pool.map(sample, watch):
                    costs.append(cost)
            except _EnoughError:
                pass
    return costs


def measure(
    item: Item,
    alive: Callable[[], None],
    *,
    directory: str,
    options: IngestOptions,
    waiting: str,
) -> Cost:
    """Returns the cost of a file, without the start of its worker; its records are discarded.

    Args:
      item: the file.
      alive: called between the records of a long file.
      directory: the folder (or URL) of the source.
      options: of the records.
      waiting: local folder for temporary files of records.
    """
    _warm_up(options)
    start = time.perf_counter()
    found = ingest(item, alive, directory=directory, options=options, waiting=waiting)
    seconds = time.perf_counter() - start
    size = file_records.total_bytes(found.records) + _PER_RECORD * len(found.records)
    file_records.discard(found.records)
    return Cost(seconds, size)


@functools.cache
def _warm_up(options: IngestOptions) -> None:
    """Loads the libraries that the first spectrogram of a process needs."""
    if options.media.audio:
        silence = np.zeros(options.fft, np.float32)
        log_mel.log_mel(silence, options.media.sample_rate, options.fft, options.hop, options.mels)


def _lost(item: Item, reason: str, detail: str) -> Cost:
    return Cost(builder.TIMEOUT, 0)
