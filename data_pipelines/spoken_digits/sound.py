"""Mixes a spoken word into background noise."""

from __future__ import annotations

import numpy as np

LOUDNESS = (0.7, 0.9)  # peak of the word / full scale
NOISE = (-55.0, -50.0)  # RMS of the noise / peak of the word, in decibels
COLOR = (0.0, 0.1)  # exponent of the noise's power spectrum: 0 is white, 1 is pink


def mix(word: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a float32 waveform of `samples` in which `word` starts at a random time.

    A word that is longer than the waveform is truncated.
    """
    word = word[:samples]
    start = rng.integers(0, samples - len(word) + 1)
    loudness = rng.uniform(*LOUDNESS)
    mixed = _noise(samples, rng) * loudness * 10 ** (rng.uniform(*NOISE) / 20)
    mixed[start : start + len(word)] += loudness * word
    return np.clip(mixed, -1, 1).astype(np.float32)


def _noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns colored noise with unit power, [samples]."""
    # The sum of many waves is normally distributed for any distribution of their amplitudes.
    spectrum = rng.random((2, samples // 2 + 1), dtype=np.float32) - np.float32(0.5)
    frequency = np.maximum(np.arange(samples // 2 + 1), samples / 400)  # flat below 40 Hz
    shaped = (spectrum[0] + 1j * spectrum[1]) * frequency ** (-rng.uniform(*COLOR) / 2)
    noise = np.fft.irfft(shaped, samples)
    return noise / np.sqrt(np.mean(noise**2))
