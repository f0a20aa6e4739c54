"""Creates one clip of the spoken digits: frames, sound and label, by its split and number."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from data_pipelines.loader_config import MODALITIES, LoaderConfig
from data_pipelines.spoken_digits import handwriting, scene, sound, words
from data_pipelines.spoken_digits.handwriting import Split
from data_pipelines.spoken_digits.words import Words

_SEED = 0  # of the data set, not of a run


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """A moving digit with its spoken name.

    Attributes:
      frames: uint8 [video.frames, data.short_side, data.short_side, 3].
      waveform: float32 [seconds * audio.sample_rate], within -1..1.
      label: the digit.
    """

    frames: np.ndarray
    waveform: np.ndarray
    label: int


def load_words(config: LoaderConfig, split: Split) -> Words:
    """Returns the spoken words of a split: from `data.speech_dir`, or synthesized.

    Raises:
      UserError: recordings are missing or damaged, or espeak-ng does not run.
    """
    if config.data.speech_dir:
        return words.read(pathlib.Path(config.data.speech_dir), split, config.audio.sample_rate)
    return words.synthesize(split, config.audio.sample_rate, _SEED)


def seconds(config: LoaderConfig) -> float:
    """Returns the length of a clip, which is enough for both modalities, even if one is read.

    Args:
      config: of the run: sizes and rates.
    """
    return dataclasses.replace(config, modalities=MODALITIES).clip_seconds


def make_clip(config: LoaderConfig, split: Split, spoken: Words, index: int) -> Clip:
    """Returns clip `index` of a split; its label is `index` modulo 10.

    Args:
      config: of the run: sizes and rates.
      split: `train` or `test`.
      spoken: from `load_words`, of the same split.
      index: from 0; clips do not depend on each other.
    """
    video = config.video
    label = index % 10
    seen, heard = (np.random.default_rng([_SEED, *split.encode(), index, i]) for i in (0, 1))
    frames = scene.draw(
        handwriting.load(split), label, video.frames, config.data.short_side, video.frame_rate, seen
    )
    word = spoken[label][heard.integers(len(spoken[label]))]
    samples = round(seconds(config) * config.audio.sample_rate)
    return Clip(frames, sound.mix(word, samples, heard), label)
