"""What a command is doing while it takes long: in place on a terminal, else line by line."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

from data_pipelines import terminal
from data_pipelines.progress import duration

LINE_SECONDS = 10.0  # without a line, where the output is no terminal
REFRESH_SECONDS = 1.0  # on a terminal
# The activities that are open, the innermost last: only that one prints lines.
_open: list[Activity] = []


class Activity:
    """Shows a long phase while it is open.

    On a terminal it is a line in place, with a bar where its parts are counted, that goes when the
    phase ends. Elsewhere it is a line whenever nothing was printed for `LINE_SECONDS`.
    """

    def __init__(self, what: str, *, total: int = 0, done: int = 0, enabled: bool = True):
        """Describes the phase.

        Args:
          what: is done, `compiling the step`; or what is counted, `step`.
          total: how many parts there are; 0: they are not counted.
          done: how many were done before.
          enabled: whether anything is shown, as it is on one process of a run.
        """
        self._what, self._total, self._done, self._enabled = what, total, done, enabled
        self._since = self._shown = time.monotonic()
        self._bar: Any = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="activity", daemon=True)

    def __enter__(self) -> Activity:
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
        """Since it was opened."""
        return time.monotonic() - self._since

    def is_due(self) -> bool:
        """Whether it is time to `show` how far it is."""
        if not self._enabled:
            return False
        if self._bar is not None:
            return time.monotonic() - self._shown >= REFRESH_SECONDS
        return terminal.quiet_seconds() >= LINE_SECONDS

    def show(self, done: int, note: str) -> None:
        """Shows how many parts are done, and what is to be said of them."""
        self._done, self._shown = done, time.monotonic()
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(note)
        elif self._enabled:
            terminal.print_text(f"{self._counted()}  {note}")

    def reached(self, done: int) -> None:
        """Notes how many parts are done; nothing is printed."""
        self._done, self._shown = done, time.monotonic()
        if self._bar is not None:
            self._bar.n = done

    def tick(self) -> None:
        """Brings the line in place up to date, or prints one if there was none for long."""
        if self._bar is not None:
            self._bar.refresh()
        elif _open[-1] is self and terminal.quiet_seconds() >= LINE_SECONDS:
            since = self._shown if self._total else self._since
            terminal.print_text(f"{self._counted()} ... {duration(time.monotonic() - since)}")

    def _counted(self) -> str:
        width = len(str(self._total))
        return self._what + (f" {self._done:>{width}}/{self._total}" if self._total else "")

    def _watch(self) -> None:
        while not self._closed.wait(REFRESH_SECONDS):
            self.tick()


def _bar(what: str, total: int, done: int) -> Any:
    from tqdm import tqdm  # imported where it is needed, as it takes a while

    tqdm.monitor_interval = 0  # its thread is not needed beside ours
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
