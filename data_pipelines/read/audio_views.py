"""Views of a clip's spectrogram, and random numbers for the device.

A view of audio has:

| key       | type                   | what                                              |
|-----------|------------------------|---------------------------------------------------|
| `log_mel` | uint16 [mels, columns] | fixed point, see `encode_log_mel`; float32 of a   |
|           |                        | filter bank (`AudioConfig.spectrogram`)           |
| `gain`    | float32                | factor of the waveform                            |
| `box`     | int32 [4]              | top, left, height, width on a canvas around it,   |
|           |                        | see `canvas_of_log_mel`                           |

An augmentation that is switched off has no key.
"""

from __future__ import annotations

import random

import numpy as np

from data_pipelines.loader_config import AudioAugment, AudioConfig
from data_pipelines.read.stacked_views import RngOf, View, stack


def train_views(audio: AudioConfig, log_mel: np.ndarray, rng_of: RngOf) -> dict[str, View]:
    """Draws global and local views of a clip for training.

    Args:
      audio: sizes of the views, and ranges of their random numbers.
      log_mel: [mels, audio.columns] of `clips.cut_log_mel`.
      rng_of: returns the random generator of a view by name: `audio/global`, `audio/local/0`.

    Returns:
      {"global": view, "local": stacked views}.
    """
    views = {"global": train_view(log_mel, audio.global_augment, rng_of("audio/global"))}
    if audio.local_views:
        rngs = [rng_of(f"audio/local/{i}") for i in range(audio.local_views)]
        views["local"] = stack([_local_view(audio, log_mel, rng) for rng in rngs])
    return views


def train_view(log_mel: np.ndarray, augment: AudioAugment, rng: random.Random) -> View:
    """Draws the view of a spectrogram, [mels, columns], for training.

    Args:
      log_mel: of `clips.cut_log_mel`.
      augment: ranges of the random numbers.
      rng: random generator.
    """
    view: View = {"log_mel": log_mel}
    if augment.volume:
        view["gain"] = np.float32(rng.uniform(1 - augment.volume, 1 + augment.volume))
    if augment.crop:
        view["box"] = _random_log_mel_box(log_mel.shape, augment, rng)
    return view


def canvas_of_log_mel(mels: int, columns: int, augment: AudioAugment) -> tuple[int, int]:
    """Returns height and width of the zero canvas around a centered spectrogram.

    Args:
      mels: height of the spectrogram, in bands.
      columns: width of the spectrogram.
      augment: ratio of the sizes.
    """
    return int(mels * augment.canvas[0]), int(columns * augment.canvas[1])


def _local_view(audio: AudioConfig, log_mel: np.ndarray, rng: random.Random) -> View:
    start = rng.randint(0, log_mel.shape[1] - audio.local_columns)
    return train_view(log_mel[:, start : start + audio.local_columns], audio.local_augment, rng)


def _random_log_mel_box(
    shape: tuple[int, ...], augment: AudioAugment, rng: random.Random
) -> np.ndarray:
    mels, columns = shape
    high, wide = canvas_of_log_mel(mels, columns, augment)
    height = min(max(int(rng.uniform(*augment.mel_scale) * mels), 1), high)
    width = min(max(int(rng.uniform(*augment.time_scale) * columns), 1), wide)
    top, left = rng.randint(0, high - height), rng.randint(0, wide - width)
    return np.array([top, left, height, width], np.int32)
