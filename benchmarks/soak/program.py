"""Runs the training program in a separate process, and follows its progress lines."""

from __future__ import annotations

import collections
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.soak.record import Record
from data_pipelines.errors import EXIT_FAILURE, EXIT_RESUMABLE

_LAST = 10  # last lines of output, which contain the error of a failed run
_STEP = re.compile(r"^step +(\d+)/")


class End(NamedTuple):
    """An end of the program that a fault explains.

    Attributes:
      status: the exit status.
      text: part of one of the last lines of its output.
    """

    status: int
    text: str


class Program:
    """A start of the program; leaving the `with` block ends it."""

    def __init__(self, command: Sequence[str], steps: int, record: Record, env: Mapping[str, str]):
        """Starts the program.

        Args:
          command: the command line; it prints lines `step N/STEPS`.
          steps: of the whole run.
          record: receives output and memory.
          env: environment variables in addition to those of this process.
        """
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, **env}, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self.step = -1
        self._last_lines: collections.deque[str] = collections.deque(maxlen=_LAST)
        self._expected: list[End] = []
        self._steps, self._record = steps, record
        self._signals: set[int] = set()  # sent to the main process
        self._disturbed_workers: list[int] = []
        self._advanced = time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the program at once."""
        self.process.kill()
        self.ended(60)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self._record.log.open("a") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                self._last_lines.append(line)
                if found := _STEP.match(line):
                    self.step, self._advanced = int(found[1]), time.monotonic()
                    largest = max(map(_megabytes, self.workers()), default=0)
                    self._record.note_memory(self.step, _megabytes(self.process.pid), largest)

    def workers(self) -> list[int]:
        """Returns the PIDs of the loader's workers."""
        return [
            child
            for child in _children(self.process.pid)
            if b"spawn_main" in _proc(child, "cmdline")
        ]

    def seconds_without_step(self) -> float:
        """Returns the time since the last step, or since the start."""
        return time.monotonic() - self._advanced

    def wait_for_step(self) -> None:
        """Waits for the first step of this start, or its end."""
        while self.step < 0 and not self.ended(0.1):
            pass

    def send(self, number: int) -> bool:
        """Sends a signal that ends the main process; returns False if it has ended."""
        if not self.interrupt(number):
            return False
        self._signals.add(number)
        return True

    def interrupt(self, number: int) -> bool:
        """Sends a signal that need not end the main process; returns False if it has ended."""
        if self.process.poll() is not None:
            return False
        self.process.send_signal(number)
        return True

    def expect(self, *ends: End) -> None:
        """Adds ends that a fault explains, before it begins."""
        self._expected += ends

    def send_to_worker(self, worker: int, number: int) -> bool:
        """Sends a signal to a loader worker; returns False if it has ended."""
        try:
            os.kill(worker, number)
        except ProcessLookupError:
            return False
        self._disturbed_workers.append(worker)
        return True

    def ended(self, within: float) -> bool:
        """Waits for the end for up to `within` seconds."""
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        for worker in self._disturbed_workers:  # a stopped process can't end
            if b"spawn_main" in _proc(worker, "cmdline"):
                os.kill(worker, signal.SIGKILL)
        self._reader.join(60)
        return True

    def is_expected_end(self) -> bool:
        """Whether the exit status follows from the faults so far."""
        status, text = self.process.returncode, "".join(self._last_lines)
        if status == 0:
            return True
        if any(status == end.status and end.text in text for end in self._expected):
            return True
        if status == EXIT_FAILURE:
            return bool(self._disturbed_workers) and "worker processes were lost" in text
        if signal.SIGTERM in self._signals and status == EXIT_RESUMABLE:
            return True
        if signal.SIGTERM in self._signals and status == -signal.SIGTERM:
            return self.step == self._steps  # after the last step there is nothing to save
        return signal.SIGKILL in self._signals and status == -signal.SIGKILL


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def _children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        status = _proc(int(entry), "stat") if entry.isdigit() else b""
        if status and int(status.rpartition(b")")[2].split()[1]) == pid:
            found.append(int(entry))
    return found


def _megabytes(pid: int) -> int:
    pages = _proc(pid, "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20 if pages else 0
