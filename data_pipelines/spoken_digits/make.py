"""Generates the data set: the clips of both splits as shards, on all cores."""

from __future__ import annotations

import functools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import cv2
import simplejpeg
import threadpoolctl

from data_pipelines import json_file, lease, worker_processes
from data_pipelines.build.catalogs.spoken_recordings import NAMES
from data_pipelines.errors import UserError
from data_pipelines.format import log_mel, record_schema, shard_names, shards, storage
from data_pipelines.format.metadata import Metadata
from data_pipelines.format.record_schema import Record
from data_pipelines.format.shards import Shard
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.spoken_digits import digit_clips
from data_pipelines.spoken_digits.digit_clips import Clip
from data_pipelines.spoken_digits.handwriting import SPLITS, Split
from data_pipelines.spoken_digits.words import Words

NAME = "spoken_digits"
_SHARDS = 8  # of each split
_JPEG_QUALITY = 95
# File with the settings of the clips in a folder, to detect clips of another config.
_MADE_FROM = "made_from.json"
_GENERATOR = 4  # increase it when the same config gives other clips


def build(config: LoaderConfig, output_dir: str, progress: Callable[[str], None] = print) -> None:
    """Generates the spoken digits in a folder, unless they are complete there.

    The same config gives the same bytes with any number of cores. They do not depend on the seed of
    the run, so runs with several seeds can use one data set.

    Args:
      config: of the run: sizes, rates, numbers of clips and `data.speech_dir`.
      output_dir: the folder.
      progress: called with lines of text.

    Raises:
      UserError: the folder has another data set, recordings are missing or damaged, or espeak-ng
        does not run.
    """
    if _is_made(config, output_dir):
        return
    storage.make_folder(output_dir)
    busy = f"{output_dir} is being built by another process"
    with lease.held_on_disk(output_dir, busy, "wait until it has ended.", float("inf"), progress):
        if not _is_made(config, output_dir):  # another process may have completed it
            _make(config, output_dir, progress)


def _is_made(config: LoaderConfig, output_dir: str) -> bool:
    if not storage.exists(storage.join(output_dir, shards.DATASET_INFO)):
        return False
    marker = storage.join(output_dir, _MADE_FROM)
    held = storage.read(marker) if storage.exists(marker) else b"{}"
    _check_same(held, _made_from(config), output_dir)
    return True


def _make(config: LoaderConfig, output_dir: str, progress: Callable[[str], None]) -> None:
    progress(f"making    {sum(_counts(config).values())} clips of spoken digits in {output_dir}")
    start = time.perf_counter()
    words = _load_words(config)
    with storage.writer(storage.join(output_dir, _MADE_FROM)) as file:
        file.write(json.dumps(_made_from(config), indent=2).encode())
    shards.start_dataset(output_dir, _metadata(config), SPLITS)
    shards.remove_leftovers(output_dir)
    finished = _make_shards(config, words, output_dir)
    shards.finish_dataset(output_dir, _metadata(config), finished)
    progress(f"made      them in {time.perf_counter() - start:.0f} s")


def _counts(config: LoaderConfig) -> dict[Split, int]:
    return {"train": config.data.train_clips, "test": config.data.test_clips}


def _made_from(config: LoaderConfig) -> dict[str, Any]:
    data, video, audio = config.data, config.video, config.audio
    return {
        "generator": _GENERATOR,
        "video.frames": video.frames,
        "video.frame_rate": video.frame_rate,
        "data.short_side": data.short_side,
        "audio.sample_rate": audio.sample_rate,
        "audio.fft": audio.fft,
        "audio.hop": audio.hop,
        "audio.mels": audio.mels,
        "data.train_clips": data.train_clips,
        "data.test_clips": data.test_clips,
        "data.speech_dir": data.speech_dir,
        **({"data.waveforms": True} if _keeps_waveforms(config) else {}),
    }


def _keeps_waveforms(config: LoaderConfig) -> bool:
    return config.data.waveforms or config.audio.spectrogram == "kaldi"


def _check_same(held: bytes, wanted: dict[str, Any], output_dir: str) -> None:
    try:
        made_from = json_file.parse(held)
    except json_file.ContentError:
        made_from = {}
    for key, value in wanted.items():
        if not isinstance(made_from, dict) or key not in made_from:
            raise UserError(f"{output_dir} has another data set: give another --config.data.dir.")
        if made_from[key] != value:
            raise UserError(
                f"The spoken digits in {output_dir} were made with {key} {made_from[key]!r}, not"
                f" {value!r}: give another --config.data.dir or --workdir, or remove that folder."
            )


def _metadata(config: LoaderConfig) -> Metadata:
    return Metadata(
        name=NAME,
        frame_rate=config.video.frame_rate,
        short_side=config.data.short_side,
        sample_rate=config.audio.sample_rate,
        fft=config.audio.fft,
        hop=config.audio.hop,
        mels=config.audio.mels,
        class_names=NAMES,
    )


def _load_words(config: LoaderConfig) -> dict[Split, Words]:
    with futures.ThreadPoolExecutor() as threads:
        loaded = threads.map(functools.partial(digit_clips.load_words, config), SPLITS)
        return dict(zip(SPLITS, loaded, strict=True))


def _make_shards(
    config: LoaderConfig, words: dict[Split, Words], output_dir: str
) -> dict[str, list[Shard]]:
    # Forked processes would inherit the locks of JAX's threads.
    context = multiprocessing.get_context("spawn")
    cores, arguments = worker_processes.usable_cores(), (config, words)
    with futures.ProcessPoolExecutor(cores, context, Worker.start, arguments) as pool:
        jobs = {
            split: [pool.submit(Worker.make_shard, split, i, output_dir) for i in range(_SHARDS)]
            for split in SPLITS
        }
        return {split: [job.result() for job in submitted] for split, submitted in jobs.items()}


class Worker:
    """State of a worker process, which is sent to it once: the config and the words."""

    config: LoaderConfig
    words: dict[Split, Words]

    @classmethod
    def start(cls, config: LoaderConfig, words: dict[Split, Words]) -> None:
        """Sets up the process: its data, one thread, and its end with the parent.

        Args:
          config: of the run.
          words: of each split.
        """
        worker_processes.end_with_parent()
        cls.config, cls.words = config, words
        # Each core has a process; threads for such small arrays would be ten times slower.
        cv2.setNumThreads(1)
        threadpoolctl.threadpool_limits(1)

    @classmethod
    def make_shard(cls, split: Split, shard: int, output_dir: str) -> Shard:
        """Writes one shard.

        Args:
          split: of the data set.
          shard: number of the shard, from 0.
          output_dir: the folder of the data set.
        """
        name = shard_names.shard_name(NAME, split, shard, _SHARDS)
        return shards.write_shard(storage.join(output_dir, name), cls._records(split, shard))

    @classmethod
    def _records(cls, split: Split, shard: int) -> Iterator[bytes]:
        for index in range(shard, _counts(cls.config)[split], _SHARDS):
            clip = digit_clips.make_clip(cls.config, split, cls.words[split], index)
            yield record_schema.serialize(_record(cls.config, f"{split}-{index:06d}", clip))


def _record(config: LoaderConfig, name: str, clip: Clip) -> Record:
    audio = config.audio
    spectrogram = log_mel.log_mel(
        clip.waveform, audio.sample_rate, audio.fft, audio.hop, audio.mels
    )
    kept = clip.waveform if _keeps_waveforms(config) else clip.waveform[:0]
    return Record(
        id=name,
        frames=[
            simplejpeg.encode_jpeg(frame, quality=_JPEG_QUALITY, colorsubsampling="444")
            for frame in clip.frames
        ],
        log_mel=record_schema.encode_log_mel(spectrogram),
        waveform=record_schema.encode_waveform(kept),
        label=clip.label,
        label_text=NAMES[clip.label],
        end=digit_clips.seconds(config),
    )
