"""Checks whether the time stamps of a sound track agree with its number of samples."""

from __future__ import annotations

from array import array

import numpy as np

# Time stamps that are faster or slower than the samples by this fraction are wrong; less is drift.
_MOST_DRIFT = 0.05
# Least length, in seconds, and number of time stamps of a track for a decision.
_ENOUGH_SECONDS = 1.0
_ENOUGH_STAMPS = 8
# Time stamps of a wrong clock are a linear function of the samples, within a tolerance in seconds
# plus a fraction of the total difference. A gap in the sound would be a step.
_JITTER = 0.03
_CURVE = 0.1


class SoundClock:
    """Compares the time stamps of frames with the samples before them."""

    def __init__(self) -> None:
        self._position = 0.0
        self._positions, self._times = array("d"), array("d")

    def add(self, seconds: float, time: float | None) -> None:
        """Adds the length of the next frame and its time stamp, in seconds; None: it has none."""
        if time is not None:
            self._positions.append(self._position)
            self._times.append(time)
        self._position += seconds

    def speed(self) -> float:
        """Returns seconds of time stamps per second of samples; 1 if they agree.

        A slow drift, gaps and overlaps count as agreement. A wrong clock has another constant
        speed.
        """
        if len(self._times) < _ENOUGH_STAMPS:
            return 1.0
        positions = np.array(self._positions) - self._positions[0]
        times = np.array(self._times) - self._times[0]
        gained = abs(times[-1] - positions[-1])
        if positions[-1] < _ENOUGH_SECONDS or gained <= _MOST_DRIFT * positions[-1]:
            return 1.0
        speed = times[-1] / positions[-1]
        deviation = np.abs(times - speed * positions).max()
        return float(speed) if deviation <= _JITTER + _CURVE * gained else 1.0
