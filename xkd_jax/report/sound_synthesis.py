"""Sounds of log-mel spectrograms, whose phases are estimated."""

from __future__ import annotations

import functools

import numpy as np

from data_pipelines.format import log_mel as log_mel_lib
from data_pipelines.format.record_schema import LOG_MEL_FLOOR
from data_pipelines.loader_config import AudioConfig

_ITERATIONS = 16
_LOUDEST = 0.9  # of full scale


def sound_of(audio: AudioConfig, log_mel: np.ndarray) -> np.ndarray:
    """Returns a sound with nearly this spectrogram.

    Griffin, D. & Lim, J., "Signal estimation from modified short-time Fourier transform", 1984.

    Args:
      audio: rates and sizes of the spectrogram.
      log_mel: log(mel power + 2^-23), float [mels, columns].

    Returns:
      float32 [(columns - 1) * hop], at most at 0.9 of full scale.
    """
    power = np.maximum(np.exp(log_mel.astype(np.float32)) - np.float32(np.exp(LOG_MEL_FLOOR)), 0)
    inverse = _inverse_filters(audio.sample_rate, audio.fft, audio.mels)
    magnitude = np.sqrt(np.maximum(inverse @ power, 0))
    window = np.hanning(audio.fft + 1)[:-1].astype(np.float32)
    # with zero phases, all energy would be in one pulse per window
    phases = np.random.default_rng(0).uniform(-np.pi, np.pi, magnitude.shape).astype(np.float32)
    spectrum = magnitude * np.exp(1j * phases)
    for _ in range(_ITERATIONS):
        again = _spectrum(_samples(spectrum, window, audio.hop), window, audio.hop)
        spectrum = magnitude * again / np.maximum(np.abs(again), 1e-12)
    found = _samples(spectrum, window, audio.hop)
    return found * np.float32(min(1.0, _LOUDEST / max(float(np.abs(found).max()), 1e-9)))


@functools.cache
def _inverse_filters(sample_rate: int, fft: int, mels: int) -> np.ndarray:
    """Returns the pseudoinverse of the mel filters, float32 [frequencies, mels]."""
    return np.linalg.pinv(log_mel_lib.filters(sample_rate, fft, mels)).astype(np.float32)


def _spectrum(samples: np.ndarray, window: np.ndarray, hop: int) -> np.ndarray:
    """Returns the Fourier transforms of windows centered at every `hop`th sample."""
    padded = np.pad(samples, len(window) // 2)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::hop]
    return np.fft.rfft(pieces * window, axis=1).T.astype(np.complex64)


def _samples(spectrum: np.ndarray, window: np.ndarray, hop: int) -> np.ndarray:
    """Returns the sound whose `_spectrum` is nearest to this one, float32 [samples]."""
    fft, columns = len(window), spectrum.shape[1]
    pieces = np.fft.irfft(spectrum.T, fft, axis=1).astype(np.float32) * window
    sums, weights = np.zeros((2, fft + (columns - 1) * hop), np.float32)
    for number, piece in enumerate(pieces):
        at = slice(number * hop, number * hop + fft)
        sums[at] += piece
        weights[at] += np.square(window)
    inner = slice(fft // 2, fft // 2 + (columns - 1) * hop)
    return sums[inner] / np.maximum(weights[inner], 1e-6)
