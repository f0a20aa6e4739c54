"""What a run shows while it runs: a line on the terminal, scalars for TensorBoard."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import terminal
from data_pipelines.tfrecord import frame

TELL_SECONDS = 20.0  # between two lines of a pass, unless it asks for others


class Progress:
    """Times a run between log lines.

    The rate counts clips over the time since the last line; the data share is the part of that
    time that the loop stood waiting for a batch.
    """

    def __init__(self, steps: int, batch_size: int, start: int):
        self._steps, self._batch_size = steps, batch_size
        self._step, self._since, self._waited = start, time.perf_counter(), 0.0

    def waited(self, seconds: float) -> None:
        """Adds time that the loop stood waiting for data."""
        self._waited += seconds

    def line(self, step: int, metrics: Mapping[str, float]) -> tuple[str, dict[str, float]]:
        """Closes the stretch since the last line.

        Returns:
          The line to print, and the stretch's scalars: clips a second and the data-wait share.
        """
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        rate = (step - self._step) / elapsed
        scalars = {
            "speed/clips_per_second": rate * self._batch_size,
            "speed/data_wait_share": self._waited / elapsed,
        }
        left = (self._steps - step) / rate if rate else float("inf")
        text = (
            f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {metrics['loss']:.4f}"
            f"  {scalars['speed/clips_per_second']:.4g} clips/s"
            f"  data wait {scalars['speed/data_wait_share']:.0%}  left {duration(left)}"
        )
        self._step, self._since, self._waited = step, now, 0.0
        return text, scalars


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
    if not np.isfinite(seconds):
        return "unknown"
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{round(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24:02} h"


class Scalars:
    """TensorBoard scalars; on every process but the first nothing is written.

    What can't be written is warned of once and left out, which ends no run. Events are written here
    and not in a thread of tensorboardX, whose faults nobody could catch.
    """

    def __init__(self, directory: Path, *, enabled: bool, start: int):
        """Names the folder; TensorBoard drops what it has there of steps after `start`."""
        self._directory, self._enabled, self._start = directory, enabled, start
        self._file: FileIO | None = None
        self._warned = False

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of one step."""
        if not self._enabled:
            return
        from tensorboardX import summary  # imported where it is needed, as it takes a while

        values = [v for name, value in scalars.items() for v in summary.scalar(name, value).value]
        try:
            if self._file is None:
                self._file = self._begin()
            _append(self._file, step=step, summary={"value": values})
        except OSError as error:
            if not self._warned:
                self._warned = True
                terminal.complain(
                    f"{self._directory} can't be written to ({error.strerror or error}): continuing"
                    " without TensorBoard's scalars until it can."
                )

    def _begin(self) -> FileIO:
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{time.time_ns()}"
        path = self._directory / name
        file = open(path, "xb", buffering=0)  # noqa: SIM115, as it stays open
        try:
            _append(file, file_version="brain.Event:2")
            _append(file, step=self._start + 1, session_log={"status": "START"})
        except OSError:
            file.close()
            path.unlink()
            raise
        return file

    def close(self) -> None:
        """Ends the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # `write` has made sure of what is in it
                self._file.close()


def _append(file: FileIO, **content: Any) -> None:
    """Writes an event with this content, whole or not at all.

    Raises:
      OSError: it can't be written.
    """
    from tensorboardX.proto import event_pb2

    event = event_pb2.Event(wall_time=time.time(), **content)
    data, place = b"".join(frame(event.SerializeToString())), file.tell()
    try:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(file.seek(place))  # a part of an event would hide those after it
        raise
