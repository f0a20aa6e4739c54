"""Computes the log-mel spectrograms that are stored in shards."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from data_pipelines.format.librosa_import import import_librosa
from data_pipelines.format.record_schema import LOG_MEL_FLOOR

if TYPE_CHECKING:
    from scipy import sparse

# Columns computed at a time, to bound memory for long files.
_BLOCK = 4096


def log_mel(
    waveform: np.ndarray, sample_rate: int = 16000, fft: int = 1024, hop: int = 143, mels: int = 80
) -> np.ndarray:
    """Returns log(mel power + 2^-23), not normalized, float32 [mels, 1 + samples // hop].

    Hann window of `fft` samples centered at every `hop`th sample, with reflection at the ends;
    power spectrum; Slaney's mel filters from 0 Hz to Nyquist. Without samples the result is [mels,
    0].

    Args:
      waveform: float [samples], full scale at 1; may be shorter than the window.
      sample_rate: in Hz.
      fft: samples in a window.
      hop: samples between columns.
      mels: number of mel bands.
    """
    if not waveform.size:
        return np.zeros((mels, 0), np.float32)
    padded = np.pad(waveform.astype(np.float32), fft // 2, mode="reflect")
    columns = 1 + waveform.size // hop
    result = np.empty((mels, columns), np.float32)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        piece = padded[start * hop : (stop - 1) * hop + fft]
        result[:, start:stop] = _log_mel_of_padded(piece, sample_rate, fft, hop, mels)
    return result


def _log_mel_of_padded(
    padded: np.ndarray, sample_rate: int, fft: int, hop: int, mels: int
) -> np.ndarray:
    librosa = import_librosa()
    spectrum = librosa.stft(padded, n_fft=fft, hop_length=hop, window="hann", center=False)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    # Not by BLAS: the order of its sums depends on its threads, and its idle threads keep spinning.
    bands = _sparse_filters(sample_rate, fft, mels) @ power
    return np.log(bands + np.float32(np.exp(LOG_MEL_FLOOR)))


@functools.cache
def _sparse_filters(sample_rate: int, fft: int, mels: int) -> sparse.csr_array:
    """Returns `filters` as a sparse matrix; 98 % of the values are zeros for 80 bands."""
    from scipy import sparse  # imported here, as readers of shards do without

    return sparse.csr_array(filters(sample_rate, fft, mels))


@functools.cache
def filters(sample_rate: int, fft: int, mels: int) -> np.ndarray:
    """Returns the mel filters, float32 [mels, 1 + fft // 2].

    Args:
      sample_rate: in Hz.
      fft: samples in a window.
      mels: number of mel bands.
    """
    return import_librosa().filters.mel(
        sr=sample_rate, n_fft=fft, n_mels=mels, fmin=0, fmax=sample_rate / 2
    )
