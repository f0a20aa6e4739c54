"""Measures the loader on one core in clips per second, against decoding and an on-the-fly loader.

    python -m benchmarks.loader [--source=FOLDER_OF_VIDEOS]

Prints JSON. All parts run alternately on one core, so that load on the machine affects them
equally; times are CPU times. "Bare" decodes, with the same library, the same JPEG images that the
loader decoded for the batch before; the ratio is the median over batches. An epoch has each file
many times, as the order of an epoch is drawn once. The on-the-fly loader reads each video in turn,
and its time is the mean over videos. BLAS, which only that loader needs, has one thread: others
would spin on the same core after each product, and their time would count as the next part's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import simplejpeg
import threadpoolctl

from benchmarks import kinetics_like, on_the_fly
from data_pipelines import terminal
from data_pipelines.build import __main__ as build
from data_pipelines.command_parser import command_parser
from data_pipelines.loader_config import DataConfig
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from data_pipelines.read.read_ahead import Batch
from xkd_jax.config.pretraining import Config

BATCH = 32
ROUNDS = 40
# Number of times that each record is in an epoch.
REPEATS = 1000


def main() -> None:
    """Runs the benchmark."""
    parser = command_parser("benchmarks.loader", __doc__)
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
        terminal.print_text(json.dumps(_measure(config, dataset, source), indent=2))


def _measure(config: Config, dataset: Dataset, source: str) -> dict:
    records = [dataset[i] for i in range(len(dataset))]
    rng = np.random.default_rng(0)

    def on_the_fly_clip(number: int) -> None:
        on_the_fly.load_clip(os.path.join(source, records[number].path), config, rng)

    on_the_fly_clip(0)
    threadpoolctl.threadpool_limits(1)  # now that all libraries are loaded
    numbers = np.repeat(np.arange(len(records)), REPEATS)
    batches = pipeline.train_batches(config, dataset, records=numbers)
    seconds: dict[str, list[float]] = {"bare": [], "loader": []}
    on_the_fly_seconds: list[list[float]] = [[] for _ in records]
    next(batches)
    wait_until_idle()
    for number in range(ROUNDS):
        with noted_images() as images:
            seconds["loader"].append(per_clip(functools.partial(load_one, batches), BATCH))
        with noted_images():  # this costs both the same
            seconds["bare"].append(per_clip(functools.partial(_decode, images), BATCH))
        turn = number % len(records)
        once = functools.partial(on_the_fly_clip, turn)
        on_the_fly_seconds[turn].append(per_clip(once, 1))
    batches.close()
    seconds["on_the_fly"] = [min(times) for times in on_the_fly_seconds if times]
    rates = {name: 1 / statistics.mean(values) for name, values in seconds.items()}
    over_bare = [b / t for b, t in zip(seconds["bare"], seconds["loader"], strict=True)]
    sizes = {simplejpeg.decode_jpeg_header(record.frames[0])[:2] for record in records}
    return {
        "clips_per_second_one_core": {name: round(rate, 1) for name, rate in rates.items()},
        "loader_over_bare_decoding": round(statistics.median(over_bare), 3),
        "loader_over_bare_decoding_least_and_most": [
            round(ratio, 3) for ratio in (min(over_bare), max(over_bare))
        ],
        "loader_over_on_the_fly": round(rates["loader"] / rates["on_the_fly"], 1),
        "frames": {"height_and_width": sorted(sizes), "per_clip": config.video.frames},
        "record_bytes": [len(dataset.source[i]) for i in range(min(len(dataset), 8))],
        "rounds": ROUNDS,
    }


@contextlib.contextmanager
def noted_images() -> Iterator[list[bytes | memoryview]]:
    """Yields the list of the JPEG images that are decoded in the context, as it grows."""
    images: list[bytes | memoryview] = []
    decode = simplejpeg.decode_jpeg

    def noted(jpeg: bytes | memoryview, **options: Any) -> np.ndarray:
        images.append(jpeg)
        return decode(jpeg, **options)

    with mock.patch.object(simplejpeg, "decode_jpeg", noted):
        yield images


def per_clip(run: Callable[[], object], clips: int) -> float:
    """Returns the seconds of CPU time of a function that makes `clips` clips, for one of them."""
    start = time.process_time()
    run()
    return (time.process_time() - start) / clips


def load_one(batches: Iterator[Batch]) -> None:
    """Takes a batch that is ready, and waits until the one that replaces it is made."""
    next(batches)
    wait_until_idle()


def wait_until_idle() -> None:
    """Waits until no thread of this process computes, or (on Linux) waits for a core."""
    quiet = 0
    while quiet < 2:
        before = time.process_time()
        time.sleep(0.05)
        busy = time.process_time() - before >= 0.001 or _another_is_runnable()
        quiet = 0 if busy else quiet + 1


def _another_is_runnable() -> bool:
    mine = str(threading.get_native_id())
    for path in pathlib.Path("/proc/self/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended
            state = path.read_text(encoding="utf-8").rpartition(") ")[2][0]
            if state == "R" and path.parent.name != mine:
                return True
    return False


def _decode(images: Iterable[bytes | memoryview]) -> None:
    for image in images:
        simplejpeg.decode_jpeg(image)


if __name__ == "__main__":
    main()
