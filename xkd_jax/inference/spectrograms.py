"""Spectrograms of waveforms of any rate, the input of audio encoders before normalization."""

from __future__ import annotations

import numpy as np

from data_pipelines.format import kaldi, record_schema
from data_pipelines.format import log_mel as log_mel_lib
from data_pipelines.loader_config import AudioConfig


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Returns a waveform [samples] resampled from `rate` to `wanted` Hz, float32."""
    samples = np.asarray(samples, np.float32)
    if rate == wanted:
        return samples
    import soxr

    return np.asarray(soxr.resample(samples, rate, wanted), np.float32)


def spectrogram(view: AudioConfig, waveform: np.ndarray) -> np.ndarray:
    """Returns the spectrogram [mels, columns] of a waveform at the view's rate.

    Args:
      view: the input of an encoder.
      waveform: float [samples].

    Returns:
      uint16 fixed point, as in shards, for `log_mel`; float32 for `kaldi`.
    """
    if view.spectrogram == "kaldi":
        return kaldi.filter_bank(waveform, view.mels)
    found = log_mel_lib.log_mel(waveform, view.sample_rate, view.fft, view.hop, view.mels)
    return record_schema.encode_log_mel(found)


def padded(view: AudioConfig, found: np.ndarray, columns: int) -> np.ndarray:
    """Returns the first columns of a spectrogram, with silence after its end.

    After the end of a filter bank are zeros, as its encoders were trained with.

    Args:
      view: the input of an encoder.
      found: [mels, any number of columns], of `spectrogram`.
      columns: number of columns.
    """
    silence = 0 if view.spectrogram == "kaldi" else record_schema.SILENCE
    lacking = max(columns - found.shape[1], 0)
    return np.pad(found[:, :columns], [(0, 0), (0, lacking)], constant_values=silence)
