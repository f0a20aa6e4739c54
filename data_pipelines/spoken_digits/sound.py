"""Mixes a spoken word into background noise."""

from __future__ import annotations

import numpy as np

LOUDNESS = (0.7, 0.9)  # the word's peak, of full scale
NOISE = (-55.0, -50.0)  # the noise's root mean square over the word's peak, decibels
COLOUR = (0.0, 0.1)  # exponent of the noise's power spectrum: 0 is white, 1 pink


def mix(word: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a float32 waveform of `samples` in which `word` starts at a random time.

    A word that is longer than the waveform is cut off at its end.
    """
    word = word[:samples]
    start = rng.integers(0, samples - len(word) + 1)
    loudness = rng.uniform(*LOUDNESS)
    mixed = _noise(samples, rng) * loudness * 10 ** (rng.uniform(*NOISE) / 20)
    mixed[start : start + len(word)] += loudness * word
    return np.clip(mixed, -1, 1).astype(np.float32)


def _noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Colored noise of unit power."""
    # The sum of so many waves is normal, whatever distribution their amplitudes have.
    spectrum = rng.random((2, samples // 2 + 1), dtype=np.float32) - np.float32(0.5)
    frequency = np.maximum(np.arange(samples // 2 + 1), samples / 400)  # flat below 40 Hz
    shaped = (spectrum[0] + 1j * spectrum[1]) * frequency ** (-rng.uniform(*COLOUR) / 2)
    noise = np.fft.irfft(shaped, samples)
    return noise / np.sqrt(np.mean(noise**2))
