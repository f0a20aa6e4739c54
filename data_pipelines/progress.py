"""Progress of a long task: periodic lines with the rate and the time left."""

from __future__ import annotations

import math
import time

LINE_SECONDS = 10.0  # default time between two lines


class ProgressMeter:
    """Periodic progress line: count, rate, time left."""

    def __init__(
        self, what: str, total: int, unit: str, start: int = 0, every: float | None = None
    ):
        """Starts the clock.

        Args:
          what: text at the start of each line.
          total: number of things to process.
          unit: name of a thing, in the plural.
          start: number of things processed before.
          every: seconds between two lines (None: `LINE_SECONDS`).
        """
        self._what, self._total, self._unit, self._start = what, total, unit, start
        self._every = LINE_SECONDS if every is None else every
        self._since = self._last_line = time.perf_counter()

    def is_due(self) -> bool:
        """Whether to print a line now; True at most once in `every` seconds."""
        now = time.perf_counter()
        if now - self._last_line < self._every:
            return False
        self._last_line = now
        return True

    def line(self, done: int) -> str:
        """Returns the line after `done` things: count, rate since the start, time left."""
        rate = (done - self._start) / max(time.perf_counter() - self._since, 1e-9)
        left = (self._total - done) / rate if rate else float("inf")
        return (
            f"{self._what} {done}/{self._total}  {rate:.4g} {self._unit}/s  left {duration(left)}"
        )


def duration(seconds: float) -> str:
    """Formats a duration in seconds: 59 s, 12 min, 3 h 04 min, 2 d 05 h."""
    if not math.isfinite(seconds):
        return "unknown"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24:02} h"
