"""Measures the loader: one and two workers, memory over an epoch, and start-up.

    python -m benchmarks.scaling [--records=400]

Prints JSON. Requires two idle cores: rates are by wall-clock time, to compare numbers of processes.
Each worker has one thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

from benchmarks import kinetics_like
from data_pipelines import terminal
from data_pipelines.build import __main__ as build
from data_pipelines.command_parser import command_parser
from data_pipelines.format import record_source, shard_index, shards
from data_pipelines.loader_config import DataConfig
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from xkd_jax.config.pretraining import Config

ROUNDS = 3
MILLION = 1_000_000


def main() -> None:
    """Runs the benchmark."""
    parser = command_parser("benchmarks.scaling", __doc__)
    parser.add_argument("--records", type=int, default=400, help="of an epoch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinetics_like.make(f"{folder}/videos", 4)
        command = ["--dataset=folder", f"--source={folder}/videos", f"--output={folder}/shards"]
        with contextlib.redirect_stdout(sys.stderr):
            build.main(command)
        config = Config(batch_size=8, data=DataConfig(threads=1, prefetch=1))
        dataset = open_dataset(config, f"{folder}/shards", "train")
        report = {
            "cores": len(os.sched_getaffinity(0)),
            **_scaling(config, dataset),
            **_memory(config, dataset, args.records),
            **_start_up(folder),
        }
    terminal.print_text(json.dumps(report, indent=2))


def _scaling(config: Config, dataset: Dataset) -> dict:
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for workers in rates:
            rates[workers].append(_rate(_with_workers(config, workers), dataset, 40))
    best = {workers: max(values) for workers, values in rates.items()}
    return {
        "clips_per_second": {f"{n} workers": round(rate, 1) for n, rate in best.items()},
        "two_workers_over_one": round(best[2] / best[1], 2),
    }


def _with_workers(config: Config, workers: int) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))


def _rate(config: Config, dataset: Dataset, count: int) -> float:
    batches = pipeline.train_batches(config, dataset)
    for _ in range(6):  # until the batches read ahead are consumed
        next(batches)
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    rate = count * config.batch_size / (time.perf_counter() - start)
    batches.close()
    return rate


def _memory(config: Config, dataset: Dataset, records: int) -> dict:
    """Returns the memory of two workers while they read `records` records."""
    batches = pipeline.train_batches(_with_workers(config, 2), dataset)
    megabytes = []
    steps = records // config.batch_size
    for step in range(steps):
        next(batches)
        if step in (steps // 4, steps // 2, steps - 1):
            workers = multiprocessing.active_children()
            megabytes.append(sorted(_resident_megabytes(w.pid) for w in workers))
    batches.close()
    return {"worker_megabytes_at_a_quarter_half_and_end": megabytes, "records": records}


def _resident_megabytes(process: int | None) -> int:
    pages = int(pathlib.Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _start_up(folder: str) -> dict:
    """Returns the seconds to open a million records."""
    path = os.path.join(folder, "million")
    written = shards.write_shard(path, itertools.repeat(b"x" * 200, MILLION))
    seconds = {}
    for name in ("index", "headers"):
        if name == "headers":
            os.remove(path + shard_index.SUFFIX)
        start = time.perf_counter()
        assert len(record_source.TFRecordSource({path: written.size})) == MILLION
        seconds[name] = round(time.perf_counter() - start, 3)
    return {"seconds_to_open_a_million_records_by": seconds}


if __name__ == "__main__":
    main()
