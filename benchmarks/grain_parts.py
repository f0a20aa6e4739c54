"""Compares the cost of two parts of Grain with ours: shuffling and batches.

    python -m benchmarks.grain_parts

Prints JSON: CPU milliseconds (of the main process and its workers, user and kernel), the minimum of
several alternating rounds. Rows have the sizes of the views of `configs/k400.py`, 2.7 MB per clip,
without decoding: the measurement covers the work from such rows to a batch in the main process,
which then reads each cache line once.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import resource
import time
from collections.abc import Callable, Generator
from typing import Any

import grain
import numpy as np
from absl import flags

from data_pipelines import terminal
from data_pipelines.buffers import Buffers, map_leaves
from data_pipelines.command_parser import command_parser
from data_pipelines.loader_config import DataConfig
from data_pipelines.read.batches import BatchInPlace, Row
from data_pipelines.read.read_ahead import Batch, prepare_worker, read_ahead

BATCH = 16
BATCHES = 24
FEW = 4
ROUNDS = 3
READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
VIEWS: dict[str, tuple[tuple[int, ...], type]] = {
    "video_global": ((32, 128, 171, 3), np.uint8),
    "video_local": ((1, 8, 128, 171, 3), np.uint8),
    "audio_global": ((80, 448), np.uint16),
    "audio_local": ((1, 80, 112), np.uint16),
}


def main() -> None:
    """Runs the benchmark."""
    command_parser("benchmarks.grain_parts", __doc__).parse_args()
    flags.FLAGS.mark_as_parsed()
    report = {
        "shuffle_ms_a_record": {n: round(_shuffle(n), 3) for n in (11, 100, 2000, 240_000)},
        "batch_ms_a_clip": {f"{n} workers": _batch(n) for n in (0, 2)},
    }
    terminal.print_text(json.dumps(report, indent=2))


def _shuffle(records: int) -> float:
    dataset = grain.MapDataset.range(records).seed(0).shuffle()
    count = min(records, 2000)
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for position in range(count):
            dataset[position]
        least = min(least, time.process_time() - start)
    return 1e3 * least / count


def _batch(workers: int) -> dict[str, dict[str, float]]:
    """Returns CPU time per clip, total and in the kernel, of Grain's batches and of ours."""
    kinds = {"grain": grain_batches, "ours": our_batches}
    used: dict[tuple[str, int], list[tuple[float, float]]] = collections.defaultdict(list)
    for _ in range(ROUNDS):
        for kind, make in kinds.items():
            for count in (FEW, FEW + BATCHES):
                used[kind, count].append(_used(make, workers, count))
    # The difference of two counts excludes the start-up.
    least = {key: np.min(times, axis=0) for key, times in used.items()}
    found = {}
    for kind in kinds:
        total, kernel = least[kind, FEW + BATCHES] - least[kind, FEW]
        each = 1e3 / (BATCHES * BATCH)
        found[kind] = {"total": round(total * each, 2), "kernel": round(kernel * each, 2)}
    return found


def _used(make: Callable[[int, int], Any], workers: int, count: int) -> tuple[float, float]:
    """Returns CPU seconds of `count` batches: total, and in the kernel."""
    before = _usage()
    with contextlib.closing(make(workers, count)) as batches:
        for batch in batches:
            map_leaves(lambda array: int(array.reshape(-1)[::64].max()), batch)
    return tuple(b - a for a, b in zip(before, _usage(), strict=True))  # type: ignore[return-value]


def _usage() -> tuple[float, float]:
    both = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    kernel = sum(usage.ru_stime for usage in both)
    return kernel + sum(usage.ru_utime for usage in both), kernel


def _row(position: int) -> Row:
    """Returns the same row for all positions, so that its creation is not measured."""
    return _rows()


@functools.cache
def _rows() -> Row:
    return {key: np.ones(shape, dtype) for key, (shape, dtype) in VIEWS.items()}


def _row_in_place(position: int) -> tuple[Row, Callable[..., None]]:
    return _row(position), _nothing


def _nothing(pending: list[Any]) -> None:
    """Fills a row whose arrays are ready."""


def grain_batches(workers: int, count: int) -> grain.DatasetIterator:
    """Returns batches stacked by Grain, and copied to its shared memory where there are workers."""
    rows = grain.MapDataset.range(count * BATCH).map(_row)
    dataset = rows.batch(BATCH).to_iter_dataset(READ)
    return iter(dataset.mp_prefetch(grain.MultiprocessingOptions(workers), prepare_worker))


def our_batches(workers: int, count: int) -> Generator[Batch]:
    """Returns the same batches as the loader makes them, each row written to its place."""

    def pipeline(buffers: Buffers, start_step: int) -> grain.IterDataset:
        return (
            grain.MapDataset.range(count * BATCH)
            .map(_row_in_place)
            .pipe(BatchInPlace, BATCH, range(BATCH), 1, buffers)
            .slice(slice(start_step, None))
            .map(buffers.pack)
            .to_iter_dataset(READ)
            .mp_prefetch(grain.MultiprocessingOptions(workers), prepare_worker)
        )

    return read_ahead(DataConfig(workers=workers), pipeline, 0)


if __name__ == "__main__":
    main()
