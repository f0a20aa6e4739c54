"""Spectrograms of waveforms of any rate, the input of audio encoders before normalization."""

from __future__ import annotations

import numpy as np

from data_pipelines.format import log_mel as log_mel_lib
from data_pipelines.format import record_schema
from data_pipelines.loader_config import AudioConfig
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference import kaldi


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Returns a waveform [samples] resampled from `rate` to `wanted` Hz, float32."""
    samples = np.asarray(samples, np.float32)
    if rate == wanted:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, wanted), np.float32)


def spectrogram(config: EncoderConfig, waveform: np.ndarray) -> np.ndarray:
    """Returns the spectrogram [mels, columns] of a waveform at the encoder's rate.

    Args:
      config: the encoder's config.
      waveform: float [samples].

    Returns:
      uint16 fixed point, as in shards, for `log_mel`; float32 for `kaldi`.
    """
    view = config.view
    assert isinstance(view, AudioConfig)
    if config.spectrogram == "kaldi":
        return kaldi.filter_bank(waveform, view.mels)
    found = log_mel_lib.log_mel(waveform, view.sample_rate, view.fft, view.hop, view.mels)
    return record_schema.encode_log_mel(found)


def cut(config: EncoderConfig, whole: np.ndarray, start: int, columns: int) -> np.ndarray:
    """Returns [mels, columns] of a spectrogram from a column on, with silence after its end.

    After the end of a Kaldi filter bank are zeros, as its encoders were trained with.

    Args:
      config: of the encoder.
      whole: [mels, all columns], of `spectrogram`.
      start: first column.
      columns: number of columns.
    """
    found = whole[:, start : start + columns]
    if found.shape[1] == columns:
        return found
    silence = 0 if config.spectrogram == "kaldi" else record_schema.SILENCE
    clip = np.full((whole.shape[0], columns), silence, whole.dtype)
    clip[:, : found.shape[1]] = found
    return clip
