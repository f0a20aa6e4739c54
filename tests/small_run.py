"""A config file for tests that start main.py: a few steps of a tiny network on `noise_shards`."""

import dataclasses

import ml_collections

from data_pipelines.loader_config import AudioConfig, VideoConfig
from xkd_jax.config.architecture import HeadConfig, ModelConfig
from xkd_jax.config.pretraining import Config

SMALL = Config(
    batch_size=8,
    max_steps=10,
    model=ModelConfig(
        size="24/2/2:16/1/2",
        head=HeadConfig(hidden=32, bottleneck=8, outputs=48),
        compute_dtype="float32",
        remat="none",
    ),
    video=VideoConfig(
        frames=4,
        size=16,
        patch=(2, 8, 8),
        mask_ratio=0.5,
        local_frames=2,
        local_size=8,
    ),
    audio=AudioConfig(mels=16, columns=32, patch=(4, 8), mask_ratio=0.5, local_columns=16),
)


def get_config() -> ml_collections.ConfigDict:
    """The small configuration, for shards of `noise_shards`."""
    config = ml_collections.ConfigDict(dataclasses.asdict(SMALL))
    config.audio.hop = 250
    config.data.short_side = 16
    config.data.threads = 2
    config.log_every = 1
    config.checkpoint.every_steps = 2
    config.optimizer.warmup_epochs = 0.0
    config.optimizer.learning_rate = 1e-3
    return config


def compile_quickly(raw: ml_collections.ConfigDict) -> None:
    """One block and one loss over the whole batch: less than half of the time."""
    raw.model.size = "16/1/2:8/1/2"
    raw.video.local_views = raw.audio.local_views = 0
    for name in raw.loss.weights:
        raw.loss.weights[name] = float(name == "align_students")
