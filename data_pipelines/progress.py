"""How far a long task is: lines with its rate and the time left."""

from __future__ import annotations

import math
import time

TELL_SECONDS = 20.0  # between two lines of a pass, unless it asks for others


class Passage:
    """How far one pass over many things is, for a line on the terminal now and then."""

    def __init__(
        self, what: str, total: int, unit: str, start: int = 0, every: float | None = None
    ):
        """Starts the clock.

        Args:
          what: begins each line.
          total: how many things there are.
          unit: what they are, in the plural.
          start: how many were done before.
          every: seconds between two lines (None: `TELL_SECONDS`).
        """
        self._what, self._total, self._unit, self._start = what, total, unit, start
        self._every = TELL_SECONDS if every is None else every
        self._since = self._told = time.perf_counter()

    def is_due(self) -> bool:
        """Whether it is time for a line; after that, only `every` seconds later again."""
        now = time.perf_counter()
        if now - self._told < self._every:
            return False
        self._told = now
        return True

    def line(self, done: int) -> str:
        """How many are done, the rate since the start, and the time left."""
        rate = (done - self._start) / max(time.perf_counter() - self._since, 1e-9)
        left = (self._total - done) / rate if rate else float("inf")
        return (
            f"{self._what} {done}/{self._total}  {rate:.4g} {self._unit}/s  left {duration(left)}"
        )


def duration(seconds: float) -> str:
    """A time left, for people: 59 s, 12 min, 3 h 04 min, 2 d 05 h."""
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
