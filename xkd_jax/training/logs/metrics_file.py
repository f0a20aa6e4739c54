"""The metrics of a run as lines of JSON, one for each step that was logged."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from data_pipelines import durable
from data_pipelines.format import storage
from xkd_jax.training.logs.metric_sinks import Sink, WriteWarning

FILE = "metrics.jsonl"
# In a bucket the whole file is written: when this fraction of it is new, and before a checkpoint.
_NEW = 1 / 16


class MetricsFile(Sink):
    """Appends `{"step": 1200, "time": 1764190000.0, "loss": 1.5, ...}` for each step.

    The time is in seconds since 1970; values that are not finite are null. Lines are in the order
    of their steps, and on disk before the checkpoint of their step, so that a resumed run removes
    those after its checkpoint and writes them again. More scalars of the same step are added to its
    line. An error of the file system does not stop the run: the first one is printed as a warning,
    and the lines are written as soon as that is possible. Nothing can be appended in a bucket: the
    object is written as a whole, at `flush` and when it has grown by a sixteenth, so that the bytes
    of all writes are proportional to its size.
    """

    def __init__(self, workdir: PurePath, start: int, clock: Callable[[], float] = time.time):
        """Writes nothing yet.

        Args:
          workdir: folder or URL of the run.
          start: number of steps made before; lines of later ones are removed at the first write.
          clock: seconds since 1970.
        """
        self._path, self._start, self._clock = workdir / FILE, start, clock
        self._warning = WriteWarning(self._path, "lines of metrics")
        self._begun = self._changed = False
        self._size = 0  # bytes that are stored, without the last line
        self._content = b""  # those bytes, of an object in a bucket
        self._new = b""  # lines that are not stored, without the last one
        self._last: dict[str, Any] = {}  # the last line
        self._stored = b""  # stored part of the last line

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars, {tag: value}, to the line of their step."""
        values = {n: float(v) if math.isfinite(v) else None for n, v in scalars.items()}
        if self._last.get("step") == step:
            self._last |= values
        else:
            self._new += self._line()
            self._last = {"step": step, "time": round(self._clock(), 3)} | values
        self._changed = True
        if isinstance(self._path, Path) or len(self._new + self._line()) >= _NEW * self._size:
            self.flush()

    def flush(self) -> None:
        """Stores all lines so far."""
        if not self._changed:
            return
        with self._warning.errors():
            if not self._begun:
                self._begin()
                self._begun = True
            content = self._new + self._line()
            if isinstance(self._path, Path):
                same = len(self._stored) if content.startswith(self._stored) else 0
                _write_from(self._path, self._size + same, content[same:])
            else:
                storage.write(str(self._path), self._content + content)
                self._content += self._new
            self._size += len(self._new)
            self._new, self._stored, self._changed = b"", self._line(), False

    def close(self) -> None:
        """Stores the last lines."""
        self.flush()

    def _line(self) -> bytes:
        return json.dumps(self._last, allow_nan=False).encode() + b"\n" if self._last else b""

    def _begin(self) -> None:
        """Removes the lines of steps that this start makes again."""
        try:
            found = storage.read(str(self._path))
        except FileNotFoundError:
            found = b""
            if isinstance(self._path, Path):
                durable.make_folders(str(self._path.parent))
        kept = b"".join(line for line in found.splitlines(True) if _step(line) <= self._start)
        if kept != found:
            storage.write(str(self._path), kept)
        self._size = len(kept)
        if not isinstance(self._path, Path):
            self._content = kept


def _step(line: bytes) -> float:
    """Returns the step of a line; infinity for a line that a killed process did not complete."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _write_from(path: Path, place: int, content: bytes) -> None:
    """Writes a file from a byte to its new end, completely; after an error it ends before that.

    Raises:
      OSError: it can't be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        try:
            if os.pwrite(descriptor, content, place) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, place)  # a part of a line would spoil the next one
            raise
    finally:
        os.close(descriptor)
