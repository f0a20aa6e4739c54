"""Progress of a long phase of a command: a bar on a terminal, otherwise periodic lines."""

from __future__ import annotations

import math
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from data_pipelines import terminal
from data_pipelines.progress import duration

LINE_SECONDS = 10.0  # between lines, if the output is not a terminal
REFRESH_SECONDS = 1.0  # on a terminal
# Open activities, the innermost last; only that one prints lines.
_open: list[Activity] = []


class Activity:
    """Shows the progress of a phase. Use as a context manager.

    On a terminal it is one line, with a bar if parts are counted, which is removed at the end of
    the phase. Otherwise a line is printed whenever nothing was printed for `LINE_SECONDS`.
    """

    def __init__(self, what: str, *, total: int = 0, done: int = 0, enabled: bool = True):
        """Sets the text of the phase.

        Args:
          what: name of the phase (`compiling the step`), or of its parts (`step`).
          total: number of parts; 0: not counted.
          done: number of parts completed before.
          enabled: whether to print; true on the main process of a run only.
        """
        self._what, self._total, self._enabled = what, total, enabled
        self._start = self._done = done
        self._since = self._shown = time.monotonic()
        self._bar: Any = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="activity", daemon=True)

    def __enter__(self) -> Self:
        self._since = self._shown = time.monotonic()
        if self._enabled:
            if terminal.is_interactive():
                self._bar = _bar(self._what, self._total, self._done)
            _open.append(self)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._enabled:
            self._closed.set()
            self._thread.join()
            _open.remove(self)
            if self._bar is not None:
                self._bar.close()

    @property
    def seconds(self) -> float:
        """Time since the start of the phase."""
        return time.monotonic() - self._since

    def is_due(self) -> bool:
        """Whether `show` should be called now."""
        if not self._enabled:
            return False
        if self._bar is not None:
            return time.monotonic() - self._shown >= REFRESH_SECONDS
        return terminal.quiet_seconds() >= LINE_SECONDS

    def show(self, done: int, note: str) -> None:
        """Prints or updates the number of completed parts, with a note."""
        self._done, self._shown = done, time.monotonic()
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(note)
        elif self._enabled:
            terminal.print_text(f"{self._counted()}  {note}  left {self._left()}")

    def reached(self, done: int) -> None:
        """Sets the number of completed parts without printing."""
        self._done, self._shown = done, time.monotonic()
        if self._bar is not None:
            self._bar.n = done

    def tick(self) -> None:
        """Refreshes the bar, or prints a line if none was printed for `LINE_SECONDS`."""
        if self._bar is not None:
            self._bar.refresh()
        elif _open[-1] is self and terminal.quiet_seconds() >= LINE_SECONDS:
            since = self._shown if self._total else self._since
            terminal.print_text(f"{self._counted()} ... {duration(time.monotonic() - since)}")

    def _left(self) -> str:
        """Returns the time left, by the rate since the start of the phase."""
        made = self._done - self._start
        left = self.seconds * (self._total - self._done) / made if made else math.inf
        return duration(left)

    def _counted(self) -> str:
        width = len(str(self._total))
        return self._what + (f" {self._done:>{width}}/{self._total}" if self._total else "")

    def _watch(self) -> None:
        while not self._closed.wait(REFRESH_SECONDS):
            self.tick()


def _bar(what: str, total: int, done: int) -> Any:
    from tqdm import tqdm  # imported here, as the import is slow

    tqdm.monitor_interval = 0  # disables tqdm's own thread
    counted = "{desc} {n_fmt}/{total_fmt} |{bar:20}| {elapsed}, left {remaining}{postfix}"
    return tqdm(
        desc=terminal.escaped(what),
        total=total or None,
        initial=done,
        file=sys.stdout,
        leave=False,
        dynamic_ncols=True,
        mininterval=0,
        bar_format=counted if total else "{desc} ... {elapsed}",
    )
