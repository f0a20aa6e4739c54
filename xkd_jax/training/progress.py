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

from data_pipelines import terminal
from data_pipelines.format.tfrecord import frame
from data_pipelines.progress import duration


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
