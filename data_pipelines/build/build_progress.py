"""Progress of a build."""

from __future__ import annotations

from data_pipelines.activity import Activity
from data_pipelines.build.ingest import FileResult


class BuildProgress(Activity):
    """Counts files, and shows their number, rate and the time left. Use as a context manager."""

    def __init__(self, files: int):
        """Creates the display for a number of files."""
        super().__init__("built    ", total=files)
        self._files = files
        self._read = self._left_out = 0

    def __call__(self, result: FileResult) -> None:
        """Counts the result of a file, and updates the display if due."""
        self._read += 1
        self._left_out += bool(result.reason)
        if self.is_due() or self._read == self._files:
            rate = self._read / max(self.seconds, 1e-9)
            self.show(self._read, f"{rate:.4g} files/s  left out {self._left_out}")
        else:
            self.reached(self._read)
