"""A data set for tests whose pixels and spectrograms identify record, frame and column."""

from __future__ import annotations

import dataclasses

import numpy as np
import simplejpeg

from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format import shards
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import AudioConfig, DataConfig, VideoConfig
from data_pipelines.read.dataset import index_of, index_rows
from data_pipelines.read.frame_cuts import Cut
from xkd_jax.config.pretraining import Config

COLUMNS_PER_FRAME = 2
CONFIG = Config(
    seed=7,
    batch_size=4,
    video=VideoConfig(
        frame_rate=8.0, frames=4, size=16, patch=(2, 8, 8), local_frames=2, local_size=8
    ),
    audio=AudioConfig(
        sample_rate=16000, fft=1024, hop=1000, mels=8, columns=8, patch=(4, 4), local_columns=4
    ),
    data=DataConfig(short_side=16, threads=3),
)
METADATA = metadata_lib.Metadata(
    name="toy", frame_rate=8.0, short_side=16, sample_rate=16000, fft=1024, hop=1000, mels=8,
    class_names=("a", "b", "c"),
)  # fmt: skip


def record(index: int, frames: int = 10, columns: int | None = None) -> Record:
    """Frame k of record i is gray 4 * k + 2, i in its label; column c of the log-mel is c."""
    columns = COLUMNS_PER_FRAME * frames if columns is None else columns
    return Record(
        id=f"clip{index}",
        path=f"clip{index}.mp4",
        frames=tuple(
            simplejpeg.encode_jpeg(np.full((16, 24, 3), 4 * k + 2, np.uint8), quality=98)
            for k in range(frames)
        ),
        log_mel=np.tile(np.arange(columns, dtype=np.uint16), (8, 1)),
        label=index % 3,
        label_text="abc"[index % 3],
        end=frames / 8,
    )


def write(folder, records, metadata=METADATA, **splits) -> str:
    """Writes records as the train split, and other splits; returns the folder."""
    shards.write_dataset(str(folder), metadata, {"train": records, **splits}, shards=2)
    return str(folder)


def index(dataset, *how):
    """Returns the index of all records of a data set (`dataset.index_rows`)."""
    return index_of(dataset, index_rows(dataset, range(len(dataset)), *how))


def config(**data) -> Config:
    """Returns the config with other values of `data` or at the top level."""
    top = {k: data.pop(k) for k in list(data) if hasattr(CONFIG, k)}
    return dataclasses.replace(CONFIG, **top, data=dataclasses.replace(CONFIG.data, **data))


def plain_views(config, size, log_mel, rng_of=None) -> dict:
    """The clip's gray of each frame, its columns, and random numbers of two streams."""
    views: dict = {}
    if size is not None:
        cut = Cut(0, config.video.frames, (0, 0, 4, 8), (4, 8))
        views["video"] = {"global": {"pixels": cut}}
    if log_mel is not None:
        views["audio"] = {"global": {"log_mel": log_mel}}
    if rng_of:
        views["noise"] = np.array([rng_of(s).randrange(2**31) for s in ("one", "two")])
    return views
