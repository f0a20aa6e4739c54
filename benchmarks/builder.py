"""Measures the builder in files per second on one core, against decoding and scaling alone.

    python -m benchmarks.builder [--source=FOLDER_OF_VIDEOS]

Prints JSON. "Bare" decodes both streams and scales the sampled frames to RGB, as a script with
PyAV would, without JPEG, spectrogram or record. Both run alternately on one core; times are CPU
times, the best of several rounds for each file.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable

import av

from benchmarks import kinetics_like
from data_pipelines import terminal
from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.build.catalogs.catalog import Item, Source
from data_pipelines.build.ingest import IngestOptions, ingest
from data_pipelines.command_parser import command_parser

ROUNDS = 7


def main() -> None:
    """Runs the benchmark."""
    parser = command_parser("benchmarks.builder", __doc__)
    parser.add_argument("--source", default="", help="folder of videos with sound")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        source = args.source or folder
        if not args.source:
            kinetics_like.make(source, 4)
        terminal.print_text(json.dumps(measure(source), indent=2))


def measure(source: str) -> dict:
    """Times the builder and decoding alone on the files of a folder; returns values for JSON."""
    options = IngestOptions()
    splits = CATALOGS["folder"](Source(source)).splits.values()
    items = [i for items in splits for i in items if _ingest(i, source, options)]
    runs: dict[str, Callable[[Item], object]] = {
        "builder": lambda item: _ingest(item, source, options),
        "bare_decode_and_scale": lambda item: _bare(os.path.join(source, item.path), options, True),
        "bare_decode": lambda item: _bare(os.path.join(source, item.path), options, False),
    }
    seconds: dict[str, dict[str, float]] = {name: {} for name in runs}
    for _ in range(ROUNDS):
        for item in items:
            for name, run in runs.items():
                start = time.process_time()
                run(item)
                taken = time.process_time() - start
                seconds[name][item.id] = min(taken, seconds[name].get(item.id, taken))
    best = {name: sum(by_file.values()) / len(items) for name, by_file in seconds.items()}
    return {
        "files_per_second_one_core": {name: round(1 / best[name], 2) for name in best},
        "builder_over_bare_decode_and_scale": round(
            best["bare_decode_and_scale"] / best["builder"], 3
        ),
        "fraction_spent_decoding": round(best["bare_decode"] / best["builder"], 3),
        "files": len(items),
        "rounds": ROUNDS,
    }


def _ingest(item: Item, source: str, options: IngestOptions) -> bool:
    return bool(ingest(item, lambda: None, directory=source, options=options).records)


def _bare(path: str, options: IngestOptions, scale: bool) -> None:
    next_time = 0.0
    with av.open(path) as container:
        streams = [container.streams.video[0], container.streams.audio[0]]
        for stream in streams:
            stream.codec_context.thread_count = 1
        for frame in container.decode(streams):
            if isinstance(frame, av.AudioFrame):
                frame.to_ndarray()
            elif isinstance(frame, av.VideoFrame) and frame.time >= next_time - 0.001:
                next_time += 1 / options.media.frame_rate
                if scale:
                    factor = options.media.short_side / min(frame.width, frame.height)
                    size = round(frame.width * factor), round(frame.height * factor)
                    frame.reformat(*size, format="rgb24", interpolation="BILINEAR").to_ndarray()


if __name__ == "__main__":
    main()
