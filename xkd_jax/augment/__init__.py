"""Augmentation on the device, of views that the host has cut and drawn (`read.views`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import einops
import jax

from data_pipelines.loader_config import AudioConfig, LoaderConfig, Modality, VideoConfig
from xkd_jax.augment.audio import augment_audio
from xkd_jax.augment.video import augment_video

Views = dict[Modality, dict[str, jax.Array]]
Kind = Literal["global", "local"]


def augment(config: LoaderConfig, batch: dict[str, dict[str, Any]]) -> Views:
    """Returns normalized views of a batch; deterministic, the random numbers are in the batch.

    A draw that a view lacks is not applied, and costs nothing.

    Args:
      config: of the views.
      batch: views of `read.views` with a leading axis of samples, `{"video": {"global": ...,
        "local": ...}, "audio": ...}`; other keys are ignored and any part may be missing.

    Returns:
      The same parts as float32 arrays: video global [B, T, S, S, 3] and local [V, B, t, s, s, 3],
      audio global [B, mels, columns] and local [V, B, mels, local columns].
    """
    views: Views = {}
    for modality, change in _CHANGES.items():
        if found := batch.get(modality):
            settings = config.modality(modality)
            views[modality] = {"global": change(settings, found["global"], kind="global")}
            if local := found.get("local"):
                of_local = functools.partial(change, settings, kind="local")
                views[modality]["local"] = _by_view(local, of_local)
    return views


def _video(video: VideoConfig, view: dict[str, jax.Array], kind: Kind) -> jax.Array:
    return augment_video(video, view, video.size if kind == "global" else video.local_size)


def _audio(audio: AudioConfig, view: dict[str, jax.Array], kind: Kind) -> jax.Array:
    settings = audio.global_augment if kind == "global" else audio.local_augment
    return augment_audio(audio, settings, view)


# {modality: (its config, a view with a leading axis of samples, which view it is) -> the view}
_CHANGES: dict[Modality, Callable[..., jax.Array]] = {"video": _video, "audio": _audio}


def _by_view(
    local: dict[str, jax.Array], change: Callable[[dict[str, jax.Array]], jax.Array]
) -> jax.Array:
    """Changes views [B, V, ...] as if each were a sample of its own; returns [V, B, ...]."""
    views = next(iter(local.values())).shape[1]
    flat = {key: einops.rearrange(draw, "b v ... -> (b v) ...") for key, draw in local.items()}
    return einops.rearrange(change(flat), "(b v) ... -> v b ...", v=views)
