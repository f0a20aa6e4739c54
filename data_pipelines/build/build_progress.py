"""Progress of a build."""

from __future__ import annotations

from types import TracebackType

from data_pipelines.activity import Activity
from data_pipelines.build.ingest import FileResult


class BuildProgress:
    """Counts files, and shows their number, rate and the time left. Use as a context manager."""

    def __init__(self, files: int):
        """Creates the display for a number of files."""
        self._files = files
        self._activity = Activity("built    ", total=files)
        self._done = self._left_out = 0

    def __enter__(self) -> BuildProgress:
        self._activity.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._activity.__exit__(kind, error, traceback)

    def __call__(self, result: FileResult) -> None:
        """Counts the result of a file, and updates the display if due."""
        self._done += 1
        self._left_out += bool(result.reason)
        if self._activity.is_due() or self._done == self._files:
            rate = self._done / max(self._activity.seconds, 1e-9)
            self._activity.show(self._done, f"{rate:.4g} files/s  left out {self._left_out}")
        else:
            self._activity.reached(self._done)
