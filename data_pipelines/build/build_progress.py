"""The progress line of a build."""

from __future__ import annotations

import sys
from typing import TextIO

from data_pipelines import terminal
from data_pipelines.build.ingest import FileResult
from data_pipelines.progress import ProgressMeter


class BuildProgress:
    """Counts files, and prints periodic lines with the rate and the time left."""

    def __init__(self, files: int, out: TextIO | None = None, every: float = 10.0):
        """Starts the clock.

        Args:
          files: number of files to process.
          out: stream of the line (None: standard error); on a terminal, each line overwrites the
            last.
          every: seconds between lines; on a terminal, a tenth of it.
        """
        self._files = files
        self._out = out or sys.stderr
        self._overwrites = self._out is not None and self._out.isatty()  # None if closed
        every = every / 10 if self._overwrites else every
        self._meter = ProgressMeter("built    ", files, "files", every=every)
        self._done = self._left_out = 0

    def __call__(self, result: FileResult) -> None:
        """Counts the result of a file, and prints a line if one is due."""
        self._done += 1
        self._left_out += bool(result.reason)
        if self._meter.is_due() or self._done == self._files:
            line = f"{self._meter.line(self._done)}  left out {self._left_out}"
            end = "\r" if self._overwrites and self._done < self._files else "\n"
            terminal.print_text(line, self._out, end)
