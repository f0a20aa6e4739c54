"""One section of the benchmark: a process with a time limit, which reports results at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accelerator.reporting import READY, RESULT, START

# Seconds for a stopped process to end.
_PATIENCE = 5


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the benchmark, which one process runs.

    name: in `--sections`.
    arguments: of Python, which end with those of the section's module.
    seconds: its time limit, counted from when it may use the device alone.
    environment: additional environment variables.
    prepares_beside: section during which this one starts, to compile in parallel.
    left_out: reason why it can't run; empty: it can.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: float
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    prepares_beside: str = ""
    left_out: str = ""


class Process:
    """A started section, which waits for `collect` before it measures."""

    def __init__(self, section: Section, log: Path):
        """Starts the process; its output other than results goes to the log."""
        self.section = section
        self._log = log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-u", *section.arguments, "--wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | section.environment,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def collect(self, keep: Callable[[dict[str, Any]], None], deadline: float) -> dict[str, Any]:
        """Starts the measurement, and collects results until the process ends or times out.

        Args:
          keep: called with each result.
          deadline: of `time.monotonic`, in addition to the section's own limit.

        Returns:
          Its `status` (done, failed, stopped), with a `reason` unless it is done, and `seconds`.
        """
        since = time.monotonic()
        end = min(since + self.section.seconds, deadline)
        with contextlib.suppress(OSError):  # it has ended, with a status
            assert self._process.stdin is not None
            self._process.stdin.write(START + "\n")
            self._process.stdin.flush()
        while True:
            try:
                line = self._lines.get(timeout=max(end - time.monotonic(), 0.01))
            except queue.Empty:
                self.stop()
                taken = round(time.monotonic() - since, 1)
                return {"status": "stopped", "reason": "its time was over", "seconds": taken}
            if line is None:
                break
            if line.startswith(RESULT):
                keep(json.loads(line.removeprefix(RESULT)))
        code, taken = self._process.wait(), round(time.monotonic() - since, 1)
        self._log.close()
        if code:
            reason = f"exit status {code}: {_end_of(Path(self._log.name))}"
            return {"status": "failed", "reason": reason, "seconds": taken}
        return {"status": "done", "seconds": taken}

    def stop(self) -> None:
        """Ends the process and its children, if it runs."""
        if self._process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
        self._log.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == READY:
                continue
            if not line.startswith(RESULT):
                with contextlib.suppress(ValueError):  # the log is closed
                    self._log.write(line)
            self._lines.put(line)
        self._lines.put(None)


def _end_of(log: Path) -> str:
    """Returns the last line of a log that is not empty."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"
