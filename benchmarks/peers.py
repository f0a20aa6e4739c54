"""Compares clips from shards with clips that PyAV, decord and TorchCodec read from video files.

    pip install -e '.[peers]'
    python -m benchmarks.peers [--source=FOLDER_OF_VIDEOS]

Without --source, two synthetic videos with sound are made, of 340x256 and 1280x720 pixels. Prints
a Markdown table: clips per second of CPU time on one core, for each video. A clip has the config's
frames and rate, at a random time of the file. A file reader opens the file, decodes the frames of
the clip and scales them to the short side of the shards, in one thread; it reads no sound and makes
no views, which the loader does. Files without a sound track have no sound in the shards either. A
reader that is not installed, or fails, is listed below the table.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Generator

import av
import cv2
import numpy as np

from benchmarks import kinetics_like, loader, markdown_table
from data_pipelines import terminal
from data_pipelines.build import __main__ as build
from data_pipelines.command_parser import command_parser
from data_pipelines.loader_config import DataConfig, Modality
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from xkd_jax.config.pretraining import Config

BATCH = 8
ROUNDS = 5
# Clips that are read from a file in a round; all readers read the same times.
TIMES = 4
SHORT_SIDE = 128

# (path, seconds of the frames from the start of the file) -> uint8 [frames, height, width, 3]
Reader = Callable[[str, np.ndarray], np.ndarray]


def read_by_av(path: str, seconds: np.ndarray) -> np.ndarray:
    """Reads frames with PyAV: seeks the key frame before the first one, and decodes from there."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        first = float((stream.start_time or 0) * (stream.time_base or 0))
        container.seek(int((first + seconds[0]) * av.time_base))
        size = _size(stream.height, stream.width)
        frames: list[np.ndarray] = []
        shown: av.VideoFrame | None = None
        for frame in container.decode(stream):
            while len(frames) < len(seconds) and frame.time > first + seconds[len(frames)]:
                frames.append(_scaled_by_av(shown or frame, size))
            shown = frame
            if len(frames) == len(seconds):
                break
        assert shown is not None
        frames += [_scaled_by_av(shown, size)] * (len(seconds) - len(frames))
        return np.stack(frames)


def _scaled_by_av(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    return frame.to_ndarray(format="rgb24", height=size[0], width=size[1])


def read_by_decord(path: str, seconds: np.ndarray) -> np.ndarray:
    """Reads frames with decord, which scales them too."""
    import decord

    height, width = _size(*_stored_size(path))
    video = decord.VideoReader(path, ctx=decord.cpu(0), width=width, height=height, num_threads=1)
    numbers = np.minimum((seconds * video.get_avg_fps()).astype(int), len(video) - 1)
    return video.get_batch(numbers).asnumpy()


def read_by_torchcodec(path: str, seconds: np.ndarray) -> np.ndarray:
    """Reads frames with TorchCodec and scales them with OpenCV."""
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    start, end = video.metadata.begin_stream_seconds, video.metadata.end_stream_seconds
    shown = np.minimum(start + seconds, np.nextafter(end, start))
    frames = video.get_frames_played_at(shown.tolist()).data.numpy()
    size = _size(*frames.shape[1:3])
    return np.stack([cv2.resize(f, size[::-1], interpolation=cv2.INTER_AREA) for f in frames])


READERS: dict[str, tuple[str, Reader]] = {
    "PyAV": ("av", read_by_av),
    "decord": ("decord", read_by_decord),
    "TorchCodec": ("torchcodec", read_by_torchcodec),
}


@functools.cache
def _stored_size(path: str) -> tuple[int, int]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        return stream.height, stream.width


def _size(height: int, width: int) -> tuple[int, int]:
    scale = SHORT_SIDE / min(height, width)
    return round(height * scale), round(width * scale)


def main() -> None:
    """Runs the benchmark."""
    parser = command_parser("benchmarks.peers", __doc__)
    parser.add_argument("--source", default="", help="folder of videos")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    installed = {n: r for n, (module, r) in READERS.items() if importlib.util.find_spec(module)}
    notes = [f"{n} is not installed." for n in READERS if n not in installed]
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = args.source or _synthetic_videos(f"{folder}/videos")
        for modalities in (("video", "audio"), ("video",)):
            shards = f"{folder}/{len(modalities)}"
            for path, records, dataset in _built(source, shards, modalities):
                if path not in (row[0] for row in rows):
                    config = Config(
                        batch_size=BATCH, data=DataConfig(threads=1, prefetch=1),
                        modalities=modalities,
                    )  # fmt: skip
                    rows.append(_row(config, dataset, records, source, path, installed, notes))
    head = ["video", "size", "sound", *installed, "shards", "shards over the fastest"]
    terminal.print_text("\n".join([*markdown_table.lines(head, sorted(rows)), "", *notes]))


def _synthetic_videos(folder: str) -> str:
    """Writes a video as small as those of Kinetics sets, and one of 720p; returns the folder."""
    kinetics_like.make(f"{folder}/340x256", 1)
    kinetics_like.make(f"{folder}/1280x720", 1, 720, 1280, 2_500_000)
    return folder


def _built(
    source: str, shards: str, modalities: tuple[Modality, ...]
) -> Generator[tuple[str, np.ndarray, Dataset]]:
    """Yields (path below the source, its records, the data set) for each file with modalities."""
    command = ["--dataset=folder", f"--source={source}", f"--output={shards}", "--workers=1"]
    with contextlib.redirect_stdout(sys.stderr):
        build.main([*command, "--keep_damaged", f"--modalities={','.join(modalities)}"])
    dataset = open_dataset(Config(modalities=modalities), shards, "train")
    paths = np.array([dataset[i].path for i in range(len(dataset))])
    for path in sorted(set(paths.tolist())):
        yield path, np.flatnonzero(paths == path), dataset


def _row(
    config: Config, dataset: Dataset, records: np.ndarray, source: str, path: str,
    readers: dict[str, Reader], notes: list[str],
) -> list[str]:  # fmt: skip
    """Returns the cells of a video, and adds to the notes which readers failed and how."""
    file = os.path.join(source, path)
    times = _random_times(config, dataset, records)
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    ours: list[float] = []
    with contextlib.closing(
        pipeline.train_batches(config, dataset, records=np.repeat(records, BATCH))
    ) as batches:
        next(batches)
        loader.wait_until_idle()
        for _ in range(ROUNDS):
            ours.append(loader.per_clip(functools.partial(loader.load_one, batches), BATCH))
            for name in list(seconds):
                read = functools.partial(_read_all, readers[name], file, times)
                try:
                    seconds[name].append(loader.per_clip(read, len(times)))
                except Exception as error:
                    notes.append(f"{name} fails on {path}: {str(error).splitlines()[0][:200]}")
                    del seconds[name]
    rate = {name: 1 / statistics.median(found) for name, found in seconds.items()}
    mine = 1 / statistics.median(ours)
    height, width = _stored_size(file)
    cells = [f"{rate[n]:.1f}" if n in rate else "fails" for n in readers]
    over = f"{mine / max(rate.values()):.1f}" if rate else ""
    sound = "yes" if "audio" in config.modalities else "no"
    return [path, f"{width}x{height}", sound, *cells, f"{mine:.0f}", over]


def _random_times(config: Config, dataset: Dataset, records: np.ndarray) -> list[np.ndarray]:
    """Returns the times of the frames of random clips of a file, in seconds."""
    rng = np.random.default_rng(0)
    rate = config.video.frame_rate
    length = max(dataset[int(i)].end for i in records)
    last = max(length - config.clip_seconds, 0)
    frames = np.arange(config.video.frames) / rate
    return [
        np.minimum(rng.uniform(0, last) + frames, math.nextafter(length, 0)) for _ in range(TIMES)
    ]


def _read_all(read: Reader, path: str, times: list[np.ndarray]) -> None:
    for seconds in times:
        frames = read(path, seconds)
        assert len(frames) == len(seconds) and min(frames.shape[1:3]) == SHORT_SIDE  # noqa: PT018


if __name__ == "__main__":
    main()
