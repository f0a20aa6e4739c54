"""Kaldi's filter bank, the input of AudioMAE, CAV-MAE and AST."""

from __future__ import annotations

import functools

import numpy as np

SAMPLE_RATE = 16000
# Samples of a frame and from frame to frame, and what a frame is padded to.
FRAME, HOP, FFT = 400, 160, 512
_PREEMPHASIS = 0.97
_LOWEST = 20.0  # Hz
_FLOOR = 2.0**-23
_BLOCK = 4096  # frames at a time, which bounds the memory that a long file takes


def filter_bank(waveform: np.ndarray, mels: int = 128) -> np.ndarray:
    """Returns the log power of mel bands, float32 [mels, frames], not normalized.

    The mean of the waveform is removed, frames lie within it (1 + (samples - 400) // 160), and each
    has its own mean removed, is pre-emphasized and weighted by a symmetric Hann window.

    Args:
      waveform: float [samples] at 16 kHz, full scale at 1.
      mels: number of bands.
    """
    if len(waveform) < FRAME:
        return np.zeros((mels, 0), np.float32)
    centered = waveform.astype(np.float64) - waveform.mean(dtype=np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(centered, FRAME)[::HOP]
    filters, window = _triangles(mels), np.hanning(FRAME)
    found = np.empty((mels, len(frames)), np.float32)
    for start in range(0, len(frames), _BLOCK):
        block = frames[start : start + _BLOCK]
        block = block - block.mean(1, keepdims=True)
        before = np.concatenate([block[:, :1], block[:, :-1]], axis=1)
        spectrum = np.fft.rfft((block - _PREEMPHASIS * before) * window, FFT)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        bands = filters @ power[:, :-1].T
        found[:, start : start + _BLOCK] = np.log(np.maximum(bands, _FLOOR))
    return found


@functools.cache
def _triangles(mels: int) -> np.ndarray:
    """Triangles [mels, 256], linear in mel and evenly spaced there from 20 Hz to Nyquist."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log1p(np.asarray(hertz) / 700)

    edges = np.linspace(mel(_LOWEST), mel(SAMPLE_RATE / 2), mels + 2)
    bins = mel(np.arange(FFT // 2) * SAMPLE_RATE / FFT)[None]
    low, center, high = (edges[i : i + mels, None] for i in range(3))
    rising, falling = (bins - low) / (center - low), (high - bins) / (high - center)
    return np.maximum(np.minimum(rising, falling), 0)
