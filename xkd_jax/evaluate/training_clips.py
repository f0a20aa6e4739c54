"""Augmentation of clips that train a classifier, on the device."""

from __future__ import annotations

import jax

from data_pipelines.loader_config import VideoConfig, ViewConfig
from xkd_jax.augment.erasing import erase
from xkd_jax.augment.mixing import mix
from xkd_jax.augment.rand_augment import rand_augment
from xkd_jax.augment.spec_augment import mask_axis, warp_time
from xkd_jax.augment.video import color_statistics
from xkd_jax.config.fit_settings import FitAugmentConfig


def augment_for_fit(
    view: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    settings: FitAugmentConfig,
    modality: ViewConfig,
) -> tuple[jax.Array, jax.Array]:
    """Returns augmented clips and their targets.

    Args:
      view: normalized, video [batch, frames, size, size, 3] or audio [batch, mel, time].
      targets: float32 [batch, classes].
      key: key of the random numbers.
      settings: strengths and probabilities.
      modality: config of the view's modality.

    Returns:
      float32 arrays of the same shapes.
    """
    if isinstance(modality, VideoConfig):
        return _augment_video(view, targets, key, settings, modality)
    return _augment_audio(view, key, settings), targets


def _augment_video(
    view: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    settings: FitAugmentConfig,
    video: VideoConfig,
) -> tuple[jax.Array, jax.Array]:
    rand_key, erase_key, mix_key = jax.random.split(key, 3)
    if settings.operations:
        mean, std = color_statistics(video)
        pixels = 255 * (view * std + mean)
        pixels = rand_augment(pixels, rand_key, settings.operations, settings.magnitude)
        view = (pixels / 255 - mean) / std
    if settings.erase:
        view = erase(view, erase_key, settings.erase)
    if settings.mixup or settings.cutmix:
        view, targets = mix(
            view,
            targets,
            mix_key,
            settings.mixup,
            settings.cutmix,
            axes=settings.cutmix_axes,
            group=settings.mix_group,
        )
    return view, targets


def _augment_audio(view: jax.Array, key: jax.Array, settings: FitAugmentConfig) -> jax.Array:
    warp_key, mel_key, time_key = jax.random.split(key, 3)
    if settings.time_warp:
        view = warp_time(view, warp_key, settings.time_warp)
    if settings.mel_masks:
        view = mask_axis(view, mel_key, 1, settings.mel_masks, settings.mel_mask)
    if settings.time_masks:
        view = mask_axis(view, time_key, 2, settings.time_masks, settings.time_mask)
    return view
