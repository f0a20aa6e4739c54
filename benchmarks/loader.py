"""Clips a second of the loader on one core, beside bare JPEG decoding and an on-the-fly loader.

    python -m benchmarks.loader [--source=FOLDER_OF_VIDEOS]

Prints JSON. Everything runs on one core and takes turns, so a busy machine slows all alike; times
are of the processor, and each rate is the best of its rounds. "Bare" is the decoding, by the same
library, of the same number of the same frames.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg

from benchmarks import kinetics_like, on_the_fly
from data_pipelines import terminal
from data_pipelines.build import __main__ as build
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import DataConfig
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from data_pipelines.read.read_ahead import Batch
from xkd_jax.config.pretraining import Config

BATCH = 16
ROUNDS = 20


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", default="", help="folder of videos with sound")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        source = args.source or f"{folder}/videos"
        if not args.source:
            kinetics_like.make(source, 4)
        command = ["--dataset=folder", f"--source={source}", f"--output={folder}/shards"]
        with contextlib.redirect_stdout(sys.stderr):
            build.main([*command, "--workers=1"])
        config = Config(batch_size=BATCH, data=DataConfig(threads=1, prefetch=1))
        dataset = open_dataset(config, f"{folder}/shards", "train")
        terminal.say(json.dumps(_measure(config, dataset, source), indent=2))


def _measure(config: Config, dataset: Dataset, source: str) -> dict:
    batches = pipeline.train_batches(config, dataset)
    records = [dataset[i] for i in range(len(dataset))]
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"bare": [], "loader": [], "on_the_fly": []}
    next(batches)
    _wait_until_idle()
    for _ in range(ROUNDS):
        seconds["bare"].append(_per_clip(lambda: _decode_bare(config, records), BATCH))
        seconds["loader"].append(_per_clip(lambda: _load(batches), BATCH))
        path = os.path.join(source, records[rng.integers(len(records))].path)
        once = lambda path=path: on_the_fly.load_clip(path, config, rng)  # noqa: E731
        seconds["on_the_fly"].append(_per_clip(once, 1))
    batches.close()
    rates = {name: 1 / min(values) for name, values in seconds.items()}
    height, width = simplejpeg.decode_jpeg_header(records[0].frames[0])[:2]
    return {
        "clips_per_second_one_core": {name: round(rate, 1) for name, rate in rates.items()},
        "loader_over_bare_decoding": round(rates["loader"] / rates["bare"], 3),
        "loader_over_on_the_fly": round(rates["loader"] / rates["on_the_fly"], 1),
        "frames": {"height": height, "width": width, "per_clip": config.video.frames},
        "record_bytes": len(dataset.source[0]),
        "rounds": ROUNDS,
    }


def _per_clip(run: Callable[[], object], clips: int) -> float:
    start = time.process_time()
    run()
    return (time.process_time() - start) / clips


def _load(batches: Iterator[Batch]) -> None:
    """Takes a batch that is ready, and waits until the one that replaces it is made."""
    next(batches)
    _wait_until_idle()


def _wait_until_idle() -> None:
    while True:
        before = time.process_time()
        time.sleep(0.1)
        if time.process_time() - before < 0.002:
            return


def _decode_bare(config: Config, records: list[Record]) -> None:
    for i in range(BATCH):
        for jpeg in records[i % len(records)].frames[: config.video.frames]:
            simplejpeg.decode_jpeg(jpeg)


if __name__ == "__main__":
    main()
