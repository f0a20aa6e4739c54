"""Labeled records of noise: dark frames with quiet audio, light frames with loud audio."""

from typing import Any

import numpy as np
import simplejpeg
import small_run

from data_pipelines.format import record_schema, shards
from data_pipelines.format.metadata import Metadata
from xkd_jax.config import pretraining

CLASSES = ("dark", "light")


def write(
    directory: str, train: int = 24, test: int = 16, seed: int = 0, modalities=("video", "audio")
) -> str:
    """Writes the splits for `small_run`'s config; returns the directory."""
    video, audio = "video" in modalities, "audio" in modalities
    rng = np.random.default_rng(seed)

    def record(i: int) -> record_schema.Record:
        label = i % 2
        frames = rng.integers(100 * label, 100 * label + 120, (6, 16, 20, 3)).astype(np.uint8)
        log_mel = record_schema.encode_log_mel(rng.normal(-8 + 6 * label, 1, (16, 60)))
        return record_schema.Record(
            id=str(i),
            frames=[simplejpeg.encode_jpeg(frame) for frame in frames] if video else (),
            log_mel=log_mel if audio else log_mel[:, :0],
            label=label,
            label_text=CLASSES[label],
        )

    shards.write_dataset(
        directory,
        Metadata(
            name="noise", frame_rate=8.0 * video, short_side=16 * video,
            sample_rate=16000 * audio, fft=1024, hop=250, mels=16, class_names=CLASSES,
        ),
        {"train": [record(i) for i in range(train)], "test": [record(i) for i in range(test)]},
        shards=2,
    )  # fmt: skip
    return directory


def config(folder, train: int = 24, **changes: Any) -> pretraining.Config:
    """Writes shards, and returns `small_run`'s config of a run on them, with changed keys."""
    raw = small_run.get_config()
    raw.update_from_flattened_dict({"data.dir": write(str(folder), train), **changes})
    return pretraining.resolve(raw)
