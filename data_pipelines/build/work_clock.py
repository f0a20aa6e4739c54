"""Measures the time that another process could spend on its work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

# Seconds between two samples of a process. A much longer interval means that this process was
# stopped or waited for a processor.
TICK = 0.5
_RUNNABLE = "R"


class Usage(NamedTuple):
    """State of a process (a letter, as in `ps`) and the processor time it has used, in seconds."""

    state: str
    seconds: float


def usage(pid: int) -> Usage | None:
    """Returns the usage of a process; None if unknown (no /proc)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Fields 3, 14 and 15 of proc(5), after the name, which may contain brackets.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    return Usage(fields[0].decode(), ticks / os.sysconf("SC_CLK_TCK"))


class WorkClock:
    """Counts the seconds in which a process computes or waits for a file.

    It does not count time in which the process waits for a processor (an overloaded machine), in
    which this process is stopped, or in which the machine is suspended. Without /proc, waiting for
    a processor is counted too.
    """

    def __init__(
        self,
        pid: int,
        now: Callable[[], float] = time.monotonic,
        usage_of: Callable[[int], Usage | None] = usage,
    ):
        self._pid, self._now, self._usage_of = pid, now, usage_of
        self.restart()

    def restart(self) -> None:
        """Resets the clock to 0."""
        self.seconds = 0.0
        self._looked, self._used = self._now(), self._usage_of(self._pid)

    def look(self) -> float:
        """Adds the time since the last call, and returns the seconds so far; call every `TICK`."""
        now = self._now()
        if now - self._looked < TICK / 2:
            return self.seconds
        passed = min(now - self._looked, 2 * TICK)
        used, before = self._usage_of(self._pid), self._used
        if used is not None and before is not None and used.state == _RUNNABLE:
            passed = min(passed, used.seconds - before.seconds)
        self.seconds += passed
        self._looked, self._used = now, used
        return self.seconds
