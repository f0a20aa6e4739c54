"""Output of a run in progress: lines on the terminal, scalars for TensorBoard."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path, PurePath
from typing import Any, cast

import cv2
import jax
import numpy as np

from data_pipelines.activity import Activity
from data_pipelines.format import storage
from data_pipelines.format.tfrecord import frame
from data_pipelines.progress import duration
from xkd_jax.training.logs.metric_sinks import Sink, WriteWarning

LARGEST = 2**18  # bytes of an events file in a bucket, which each write copies


class Progress:
    """Log lines with the speed since the line before.

    The speed is in clips per second; the data-wait fraction is the part of that time in which the
    device waited for a batch (`DataWait`).
    """

    def __init__(self, steps: int, batch_size: int, start: int, *, enabled: bool = True):
        """Starts the clock.

        Args:
          steps: of the whole run.
          batch_size: clips in a global batch.
          start: steps made before.
          enabled: whether this process shows how far the run is between its lines.
        """
        self._shown = Activity("step", total=steps, done=start, enabled=enabled)
        self._steps, self._batch_size = steps, batch_size
        self._step, self._since = start, time.perf_counter()

    def running(self) -> Activity:
        """Restarts the clock, and returns a context that shows the run's progress.

        It must be entered after compilation, which would change the speed.
        """
        self._since = time.perf_counter()
        return self._shown

    def reached(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Shows a step that has been made, unless something was shown just before."""
        if self._shown.is_due():
            found = jax.device_get(metrics)
            self._shown.show(step, f"loss {found['loss']:.4f}  {loss_terms(found)}".rstrip())
        else:
            self._shown.reached(step)

    def line(
        self, step: int, metrics: Mapping[str, float], waited: float
    ) -> tuple[str, dict[str, float]]:
        """Returns the log line of a step, and the scalars of the steps since the line before.

        Args:
          step: number of steps made.
          metrics: scalars, with "loss" among them.
          waited: seconds since the line before in which the device waited for a batch.

        Returns:
          The line, and {name: value} of clips per second and data-wait fraction.
        """
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        rate = (step - self._step) / elapsed
        scalars = {
            "speed/clips_per_second": rate * self._batch_size,
            "speed/data_wait_fraction": waited / elapsed,
        }
        left = (self._steps - step) / rate if rate else float("inf")
        text = (
            f"step {step:>{len(str(self._steps))}}/{self._steps}  loss {metrics['loss']:.4f}"
            f"  {scalars['speed/clips_per_second']:.4g} clips/s"
            f"  data wait {scalars['speed/data_wait_fraction']:.0%}  left {duration(left)}"
            + (f"  {terms}" if (terms := loss_terms(metrics)) else "")
        )
        self._step, self._since = step, now
        self._shown.reached(step)
        return text, scalars


def loss_terms(metrics: Mapping[str, float]) -> str:
    """The terms of a loss: `reconstruct video 1.04 audio 0.98, align students 0.1`.

    Args:
      metrics: of a step; terms are named `loss/KIND_PART`.
    """
    prefix = "loss/"
    return grouped({k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)})


def grouped(terms: Mapping[str, float]) -> str:
    """Formats numbers with names KIND_PART as words, grouped by kind."""
    kinds: dict[str, list[str]] = {}
    for name, value in terms.items():
        kind, _, part = name.partition("_")
        kinds.setdefault(kind, []).append(f"{part.replace('_', ' ')} {value:.3g}".lstrip())
    return ", ".join(f"{kind} {' '.join(parts)}" for kind, parts in kinds.items())


class Scalars(Sink):
    """TensorBoard scalars, written by the main process only.

    An error of the file system does not stop the run: the first one is printed as a warning, and
    those scalars are left out. Events are written without the thread of tensorboardX, whose
    exceptions can't be caught. In a bucket, where nothing can be appended, the file is a local one
    that is copied there with each write; after `LARGEST` bytes the next file begins.
    """

    def __init__(
        self,
        directory: PurePath,
        *,
        enabled: bool,
        start: int,
        texts: Mapping[str, str] | None = None,
    ):
        """Sets the folder.

        Args:
          directory: made at the first write.
          enabled: whether this process writes.
          start: number of steps made before; TensorBoard drops later scalars of an earlier file.
          texts: {tag: Markdown}, written before the first scalars; None: none.
        """
        self._texts = texts or {}
        self._directory, self._enabled, self._start = directory, enabled, start
        self._file: FileIO | None = None
        self._url = ""
        self._warning = WriteWarning(directory, "TensorBoard's scalars")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of one step, {tag: value}."""
        if not self._enabled:
            return
        from tensorboardX import summary  # imported here because that takes long

        self._write(
            step, [v for name, value in scalars.items() for v in summary.scalar(name, value).value]
        )

    def draw(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes the images of one step, {tag: uint8 [height, width, 3]}."""
        if not self._enabled:
            return
        self._write(step, [_image(tag, image) for tag, image in images.items()])

    def _write(self, step: int, values: list[Any]) -> None:
        with self._warning.errors():
            if self._file is None:
                self._file = self._begin()
            _append(self._file, step=step, summary={"value": values})
            self._publish(self._file)

    def _begin(self) -> FileIO:
        from tensorboardX import summary

        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{time.time_ns()}"
        path = self._directory / name
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "xb", buffering=0)  # noqa: SIM115, as it stays open
        else:
            self._url = str(path)
            file = cast(FileIO, tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
        try:
            _append(file, file_version="brain.Event:2")
            _append(file, step=self._start + 1, session_log={"status": "START"})
            for tag, text in self._texts.items():
                _append(file, step=self._start, summary=summary.text(tag, text))
        except OSError:
            file.close()
            if isinstance(path, Path):
                path.unlink()
            raise
        return file

    def _publish(self, file: FileIO) -> None:
        """Copies the file to the bucket, if that is where the folder is."""
        if isinstance(self._directory, Path):
            return
        file.seek(0)
        content = file.read()
        storage.write(self._url, content)
        if len(content) > LARGEST:
            file.close()
            self._file = None

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # all events are synced already
                self._file.close()


def _image(tag: str, image: np.ndarray) -> dict[str, Any]:
    """The value of a summary, as tensorboard/compat/proto/summary.proto has it."""
    height, width, channels = image.shape
    encoded = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1].tobytes()
    sizes = {"height": height, "width": width, "colorspace": channels}
    return {"tag": tag, "image": sizes | {"encoded_image_string": encoded}}


def _append(file: FileIO, **content: Any) -> None:
    """Writes an event with these fields, completely or not at all.

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
            file.truncate(file.seek(place))  # after a partial event no other one could be read
        raise
