"""Augmentation on the device, of views that the host has cut and drawn (`read.views`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.loader_config import Modality
from xkd_jax.augment.audio import augment_audio
from xkd_jax.augment.video import augment_video
from xkd_jax.config.pretraining import Config

Views = dict[Modality, dict[str, jax.Array]]


def augment(config: Config, batch: dict[str, dict[str, Any]]) -> Views:
    """Returns normalized views of a batch; deterministic, the random numbers are in the batch.

    A draw that a view lacks is not applied, and costs nothing.

    Args:
      config: of the run.
      batch: views of `read.views` with a leading axis of samples, `{"video": {"global": ...,
        "local": ...}, "audio": ...}`; other keys are ignored and any part may be missing.

    Returns:
      The same parts as float32 arrays: video global [B, T, S, S, 3] and local [V, B, t, s, s, 3],
      audio global [B, mels, columns] and local [V, B, mels, local columns].
    """
    views: Views = {}
    if video := batch.get("video"):
        views["video"] = {"global": augment_video(config.video, video["global"], config.video.size)}
        if local := video.get("local"):
            views["video"]["local"] = _by_view(
                local, lambda view: augment_video(config.video, view, config.video.local_size)
            )
    if audio := batch.get("audio"):
        views["audio"] = {
            "global": augment_audio(config.audio, config.audio.global_augment, audio["global"])
        }
        if local := audio.get("local"):
            views["audio"]["local"] = _by_view(
                local,
                lambda view: augment_audio(config.audio, config.audio.local_augment, view),
            )
    return views


def _by_view(local: dict[str, jax.Array], change: Any) -> jax.Array:
    """Changes views [B, V, ...] as if each were a sample of its own; returns [V, B, ...]."""
    samples, views = next(iter(local.values())).shape[:2]
    flat = {key: draw.reshape(samples * views, *draw.shape[2:]) for key, draw in local.items()}
    changed = change(flat)
    return jnp.moveaxis(changed.reshape(samples, views, *changed.shape[1:]), 1, 0)
