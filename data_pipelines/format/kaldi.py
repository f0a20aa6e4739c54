"""Kaldi's filter bank, the input of AudioMAE, CAV-MAE and AST."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy import sparse

SAMPLE_RATE = 16000
# Samples in a frame, between the starts of frames, and in a padded frame.
FRAME, HOP, FFT = 400, 160, 512
_PREEMPHASIS = 0.97
_LOWEST = 20.0  # Hz
_FLOOR = 2.0**-23
_BLOCK = 4096  # frames at a time, which bounds the memory that a long file takes


def filter_bank(waveform: np.ndarray, mels: int = 128) -> np.ndarray:
    """Returns the log power of mel bands, float32 [mels, frames], not normalized.

    Frames lie within the waveform, and each has its mean removed, is pre-emphasized and weighted by
    a symmetric Hann window. (The encoders' authors also subtract the waveform's mean before, which
    changes nothing.)

    Args:
      waveform: float [samples] at 16 kHz, full scale at 1.
      mels: number of bands.
    """
    if not columns(len(waveform)):
        return np.zeros((mels, 0), np.float32)
    samples = waveform.astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
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


def columns(samples: int) -> int:
    """Returns the number of frames of a waveform, 1 + (samples - 400) // 160."""
    return max(0, 1 + (samples - FRAME) // HOP)


def columns_of(waveform: np.ndarray, first: int, count: int, mels: int = 128) -> np.ndarray:
    """Returns some columns of a waveform's filter bank, float32 [mels, count], computed alone.

    After the last frame are zeros, as the encoders of this input were trained with.

    Args:
      waveform: int16 or float [samples] at 16 kHz, full scale at 32768 or 1.
      first: first column.
      count: number of columns.
      mels: number of bands.
    """
    samples = waveform[first * HOP : (first + count - 1) * HOP + FRAME]
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32768
    found = filter_bank(samples, mels)
    clip = np.zeros((mels, count), np.float32)
    clip[:, : found.shape[1]] = found
    return clip


@functools.cache
def _triangles(mels: int) -> sparse.csr_array:
    """Triangles [mels, 256], linear in mel and evenly spaced there from 20 Hz to Nyquist.

    Sparse: BLAS sums in an order that depends on its threads, and its idle threads keep spinning.
    """
    from scipy import sparse  # imported here, as few runs need it

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log1p(np.asarray(hertz) / 700)

    edges = np.linspace(mel(_LOWEST), mel(SAMPLE_RATE / 2), mels + 2)
    bins = mel(np.arange(FFT // 2) * SAMPLE_RATE / FFT)[None]
    low, center, high = (edges[i : i + mels, None] for i in range(3))
    rising, falling = (bins - low) / (center - low), (high - bins) / (high - center)
    return sparse.csr_array(np.maximum(np.minimum(rising, falling), 0))
