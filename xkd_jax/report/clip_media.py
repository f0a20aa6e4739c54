"""Clips of a page: videos with sound, spectrograms and players."""

from __future__ import annotations

import functools

import numpy as np

from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import AudioConfig, LoaderConfig, Modality, VideoConfig
from data_pipelines.read import clips
from data_pipelines.read.dataset import Dataset
from xkd_jax.report import browser_formats
from xkd_jax.report.elements import Child, Html, element, player
from xkd_jax.report.sound_synthesis import sound_of
from xkd_jax.training.pictures.drawing import pictures
from xkd_jax.training.pictures.reconstructed_views import unnormalized


class ClipMedia:
    """A clip of a data set for the page; media that is shown twice is encoded once."""

    def __init__(
        self, config: LoaderConfig, dataset: Dataset, record: int, views: dict[Modality, np.ndarray]
    ):
        """Reads the record's name and label.

        Args:
          config: of the run.
          dataset: the split.
          record: index of the record.
          views: normalized global views, float32, by modality.
        """
        self._config = config
        # views of frames are large: only the shown frames are kept
        self._frames = _frames(config.video, views["video"]) if "video" in views else None
        self._log_mel = views.get("audio")
        found = dataset[record]
        self._recorded = recorded_sound(found, dataset.metadata.frame_rate, config)
        names = dataset.metadata.class_names
        numbers = found.labels if dataset.metadata.multi_label else [found.label]
        classes = [names[n] for n in numbers if 0 <= n < len(names)]
        self.id = found.id
        self.label = ", ".join(classes) or found.label_text

    @property
    def title(self) -> str:
        """Class and name of the record."""
        return f"{self.label} ({self.id})" if self.label else self.id

    @functools.cached_property
    def samples(self) -> np.ndarray | None:
        """Sound of the clip, float32 [samples], full scale at 1; None without audio.

        It is computed from the spectrogram if the shards have no waveforms.
        """
        if self._log_mel is None or self._recorded is not None:
            return self._recorded
        return samples_of(self._config.audio, self._log_mel)

    def shown(self, modality: Modality) -> Child:
        """Returns a player of one modality: frames with the sound, or the spectrogram above it."""
        return self._film if modality == "video" else self._sound

    @functools.cached_property
    def _film(self) -> Html:
        assert self._frames is not None
        return video_player(self._frames, self._config, self.title, self.samples)

    @functools.cached_property
    def _sound(self) -> Html:
        return element(
            "div", self.spectrogram, sound(self.samples, self._config.audio.sample_rate, self.title)
        )

    @functools.cached_property
    def spectrogram(self) -> Html:
        """The spectrogram as an image."""
        assert self._log_mel is not None
        image = pictures(self._config.audio, self._log_mel[None])[0]
        name = f"Spectrogram of {self.title}, low frequencies at the bottom"
        return element("img", src=browser_formats.png(browser_formats.scaled(image)[0]), alt=name)


def _frames(video: VideoConfig, view: np.ndarray) -> np.ndarray:
    """Returns the frames of a normalized view as they are shown, uint8."""
    return browser_formats.scaled(pictures(video, view[None])[0])


def video_player(
    frames: np.ndarray, config: LoaderConfig, name: str, samples: np.ndarray | None
) -> Html:
    """Returns a player of frames.

    Args:
      frames: of `browser_formats.scaled`, uint8 [time, even height, even width, 3].
      config: of the run.
      name: for screen readers.
      samples: sound, float [samples]; None: silent.
    """
    address = browser_formats.webm_video(
        frames, config.video.frame_rate, samples, config.audio.sample_rate
    )
    height, width = frames.shape[1:3]
    poster = browser_formats.jpeg(frames[len(frames) // 2])
    return player("video", address, name, class_="clip", poster=poster, width=width, height=height)


def sound(samples: np.ndarray | None, sample_rate: int, name: str, shown: str = "") -> Child:
    """Returns a player of a sound; nothing for None.

    Args:
      samples: float [samples], full scale at 1.
      sample_rate: in Hz.
      name: for screen readers.
      shown: on the player; empty: nothing.
    """
    if samples is None:
        return None
    address = browser_formats.sound(samples, sample_rate)
    return player("audio", address, name, class_="clip", data_name=shown or None)


def recorded_sound(record: Record, stored_rate: float, config: LoaderConfig) -> np.ndarray | None:
    """Returns the sound of a record's central clip, float32 [samples], full scale at 1.

    Args:
      record: of the run's data.
      stored_rate: of the record's frames, in Hz; 0: unknown.
      config: of the run.

    Returns:
      None if the record has no waveform, or the run no audio.
    """
    audio = config.audio
    if not record.waveform.size or "audio" not in config.modalities:
        return None
    record = clips.at_frame_rate(record, stored_rate, config.video.frame_rate)
    start = int(clips.spread_starts(record, config, 1)[0])
    first = clips.first_column(record, start, config) * audio.hop
    samples = record.waveform[first : first + audio.columns * audio.hop]
    return samples.astype(np.float32) / 2**15


def samples_of(audio: AudioConfig, view: np.ndarray) -> np.ndarray:
    """Returns the sound of a spectrogram, float32 [samples].

    Args:
      audio: kind, rates and normalization of the spectrogram.
      view: normalized, float32 [mels, columns].
    """
    return sound_of(audio, unnormalized(audio, view))
