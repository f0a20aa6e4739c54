"""Whether the time stamps of a sound track agree with its number of samples."""

from __future__ import annotations

from array import array

import numpy as np

# Time stamps that run by this much faster or slower than samples are at fault; less is drift.
_MOST_DRIFT = 0.05
# A track is long enough to tell with so many seconds of samples and so many time stamps.
_ENOUGH_SECONDS = 1.0
_ENOUGH_STAMPS = 8
# Time stamps of a clock at fault lie on a line: this much beside it, in seconds, and as a share of
# what the clock gains or loses. A gap in the sound makes a step instead.
_JITTER = 0.03
_CURVE = 0.1


class SoundClock:
    """Compares the time stamps of frames with the samples before them."""

    def __init__(self) -> None:
        self._position = 0.0
        self._positions, self._times = array("d"), array("d")

    def add(self, seconds: float, time: float | None) -> None:
        """Takes the next frame's length and its time stamp, if it has one."""
        if time is not None:
            self._positions.append(self._position)
            self._times.append(time)
        self._position += seconds

    def speed(self) -> float:
        """Returns seconds of time stamps in a second of samples; 1 where they agree.

        They agree where they drift apart slowly, and where gaps or overlaps explain the difference:
        a clock at fault runs at one other speed all the time.
        """
        if len(self._times) < _ENOUGH_STAMPS:
            return 1.0
        positions = np.array(self._positions) - self._positions[0]
        times = np.array(self._times) - self._times[0]
        gained = abs(times[-1] - positions[-1])
        if positions[-1] < _ENOUGH_SECONDS or gained <= _MOST_DRIFT * positions[-1]:
            return 1.0
        speed = times[-1] / positions[-1]
        beside = np.abs(times - speed * positions).max()
        return float(speed) if beside <= _JITTER + _CURVE * gained else 1.0
