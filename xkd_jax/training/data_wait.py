"""Measures for how long the device waits for batches."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from typing import Any

import jax


class DataWait:
    """Adds up the time in which the device has no batch.

    The device waits from the end of a step, or from when the loop asks for the next batch if that
    is later, until the next batch is on the device. This includes the transfer, and delays of the
    loop by other threads of the process, which the loop does not see: it dispatches steps ahead,
    and is then blocked by a step that is late itself. A thread follows the arrays of the steps.
    """

    def __init__(self) -> None:
        """Starts the thread."""
        self._events: queue.Queue[tuple[float | None, Any] | None] = queue.Queue()
        self._seconds = 0.0
        threading.Thread(target=self._follow, name="data-wait", daemon=True).start()

    def placed(self, asked: float, batch: Any) -> None:
        """Notes that the transfer of a batch has started.

        Args:
          asked: when the loop asked for it, by `time.perf_counter`.
          batch: PyTree of arrays, which must not be donated.
        """
        self._events.put((asked, batch))

    def dispatched(self, result: jax.Array) -> None:
        """Notes that the step of the batch is dispatched; `result` is ready at its end."""
        self._events.put((None, result))

    def take(self) -> float:
        """Returns the seconds since the last call, after the steps dispatched so far have ended."""
        self._events.join()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def close(self) -> None:
        """Ends the thread."""
        self._events.put(None)

    def _follow(self) -> None:
        end = -math.inf  # of the last step
        while (event := self._events.get()) is not None:
            asked, arrays = event
            # An error of the step is raised where the loop reads the step's metrics.
            with contextlib.suppress(Exception):
                jax.block_until_ready(arrays)
            now = time.perf_counter()
            if asked is None:
                end = now
            else:
                self._seconds += max(now - max(asked, end), 0.0)
            del event, arrays  # their memory may be reused while this thread waits
            self._events.task_done()
        self._events.task_done()
