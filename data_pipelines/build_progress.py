"""The line that shows how far a build is."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from data_pipelines.ingest import FileResult


class BuildProgress:
    """Counts files, and now and then writes their rate and the time left."""

    def __init__(self, files: int, out: TextIO | None = None, every: float = 10.0):
        """Starts the clock.

        Args:
          files: number of files to come.
          out: where the line goes (None: standard error); a terminal's is written over.
          every: seconds between lines; a tenth of it on a terminal.
        """
        self._files = files
        self._out = out or sys.stderr
        self._every = every / 10 if self._out.isatty() else every
        self._done = self._left_out = 0
        self._began = self._shown = time.monotonic()

    def __call__(self, result: FileResult) -> None:
        """Takes the result of a file."""
        self._done += 1
        self._left_out += bool(result.reason)
        now = time.monotonic()
        if now - self._shown >= self._every or self._done == self._files:
            self._shown = now
            end = "\r" if self._out.isatty() and self._done < self._files else "\n"
            print(self.line(now - self._began), end=end, file=self._out, flush=True)

    def line(self, seconds: float) -> str:
        """Returns what is shown after so many seconds."""
        rate = self._done / max(seconds, 1e-9)
        left = (self._files - self._done) / rate
        return (
            f"{self._done:,} of {self._files:,} files, {rate:.1f} a second, {_duration(left)} left,"
            f" {self._left_out:,} left out"
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
