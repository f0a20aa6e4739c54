"""Augmentation on the device: the host draws the random numbers (`data_pipelines.read.views`)."""

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
    """Returns the normalized views of a batch; deterministic, as the batch has the random numbers.

    An augmentation whose random numbers are missing in a view is not compiled.

    Args:
      config: shapes, augmentation and statistics of the views.
      batch: views of `data_pipelines.read.views` with a leading axis of samples, `{"video":
        {"global": ..., "local": ...}, "audio": ...}`; any part may be missing, other keys are
        ignored.

    Returns:
      float32 arrays under the same keys: video global [B, T, S, S, 3] and local [V, B, t, s, s, 3],
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
    """Applies `change` to views [B, V, ...] flattened to [B * V, ...]; returns [V, B, ...]."""
    views = next(iter(local.values())).shape[1]
    flat = {key: einops.rearrange(draw, "b v ... -> (b v) ...") for key, draw in local.items()}
    return einops.rearrange(change(flat), "(b v) ... -> v b ...", v=views)
