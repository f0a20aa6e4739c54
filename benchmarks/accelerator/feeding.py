"""Trains the k400 config from shards; reports clips per second and data wait.

    python -m benchmarks.accelerator.feeding --shards=FOLDER --variant=64:auto:global

The loader is also timed alone. The records are read repeatedly, so they come from the page cache.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import time
from collections.abc import Generator, Iterator
from typing import Any

import jax

from benchmarks.accelerator import reporting, step_times
from data_pipelines.command_parser import command_parser
from data_pipelines.loader_config import AUTOMATIC
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from data_pipelines.worker_processes import usable_cores
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.logs.data_wait import DataWait
from xkd_jax.training.loop import IN_FLIGHT


@contextlib.contextmanager
def _batches(dataset: Dataset, config: Any, workers: int) -> Iterator[Generator[Any]]:
    data = dataclasses.replace(config.data, workers=workers, threads=AUTOMATIC)
    config = dataclasses.replace(config, data=data)
    with contextlib.closing(pipeline.train_batches(config, dataset)) as batches:
        yield batches


def measure_loader(dataset: Dataset, config: Any, workers: int, batches_timed: int) -> None:
    """Reports the clips per second of the loader alone."""
    with _batches(dataset, config, workers) as batches:
        for _ in range(2 + config.data.prefetch):
            next(batches)
        since = time.perf_counter()
        for _ in range(batches_timed):
            next(batches)
        taken = time.perf_counter() - since
    reporting.report(
        "loader", workers=workers, cores=usable_cores(), clips=config.batch_size,
        clips_per_second=round(batches_timed * config.batch_size / taken, 1),
    )  # fmt: skip


def measure_training(
    dataset: Dataset, compiled: step_times.Compiled, workers: int, steps: int
) -> None:
    """Reports clips per second of training from shards, and the data-wait fraction."""
    run, config = compiled.run, compiled.config
    state, following = run.initialize(), None
    on_their_way: collections.deque[jax.Array] = collections.deque()

    def put(batches: Iterator[Any]) -> Any:
        rows = next(batches)
        views = {m: rows[m] for m in config.modalities}
        return mesh_lib.put_batch(views, run.batch_sharding, config.batch_size)

    def step(batches: Iterator[Any]) -> None:
        """Makes a step, with the next batch transferred during it, as in `training.loop`."""
        nonlocal state, following
        placed, asked = following, time.perf_counter()
        following = put(batches)
        wait.dispatching(asked, placed)
        state, metrics = compiled.step(state, placed)
        wait.dispatched(metrics["loss"])
        on_their_way.append(metrics["loss"])
        if len(on_their_way) > IN_FLIGHT:
            jax.block_until_ready(on_their_way.popleft())

    with (
        _batches(dataset, config, workers) as batches,
        contextlib.closing(DataWait()) as wait,
    ):
        following = put(batches)
        for _ in range(3 + config.data.prefetch):
            step(batches)
        jax.block_until_ready(state)
        wait.take()
        since = time.perf_counter()
        for _ in range(steps):
            step(batches)
        jax.block_until_ready(state)
        taken, waited = time.perf_counter() - since, wait.take()
    reporting.report(
        "training", workers=workers, clips=config.batch_size, steps=steps,
        clips_per_second=round(steps * config.batch_size / taken, 1),
        data_wait_share=round(waited / taken, 4),
    )  # fmt: skip


def main() -> None:
    """Measures the loader, then training."""
    parser = command_parser("benchmarks.accelerator.feeding", __doc__)
    parser.add_argument("--shards", required=True, help="folder of shards with a train split")
    parser.add_argument("--variant", default="64:auto:global", help="as of step_times")
    parser.add_argument("--workers", default="0,12", help="worker processes, as in 0,12")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model, on any device")
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    variant = step_times.Variant.parse(args.variant)
    compiled = step_times.compile_variant(variant, args.rehearse)
    reporting.wait_for_start(args.wait)
    dataset = open_dataset(compiled.config, args.shards, "train")
    steps = 2 if args.rehearse else 40
    for workers in map(int, args.workers.split(",")):
        reporting.attempt(
            "loader",
            lambda workers=workers: measure_loader(dataset, compiled.config, workers, steps),  # type: ignore[misc]
        )
        reporting.attempt(
            "training",
            lambda workers=workers: measure_training(dataset, compiled, workers, steps),  # type: ignore[misc]
        )


if __name__ == "__main__":
    main()
