"""Measures for how long the device waits for batches."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from typing import Any, NamedTuple

import jax

_POLL = 0.001  # seconds


class _Batch(NamedTuple):
    """The batch of a step.

    asked: when the loop last asked the loader for a batch.
    had: when the step was dispatched, if the batch was on the device; None: it arrives later.
    """

    arrays: Any
    asked: float
    had: float | None


class DataWait:
    """Adds up the time in which the device has no batch.

    The device waits from the end of a step, or from when the loop requests a batch if that is
    later, until the next step is dispatched and its batch is on the device. This includes the
    transfer, and delays of the loop by other threads of the process. The loop can't measure these:
    it dispatches steps ahead, and is then blocked by a step that is itself late. So a thread waits
    for the arrays of the steps.
    """

    def __init__(self) -> None:
        """Starts the thread."""
        # Batches and results of steps, in turn.
        self._events: queue.Queue[_Batch | jax.Array | None] = queue.Queue()
        self._seconds = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="data-wait", daemon=True)
        self._thread.start()

    def dispatching(self, asked: float, batch: Any) -> None:
        """Notes that a step is about to be dispatched.

        Args:
          asked: when the loop last asked the loader for a batch, by `time.perf_counter`.
          batch: of the step, a PyTree of arrays, which must not be donated.
        """
        here = all(array.is_ready() for array in jax.tree.leaves(batch))
        self._events.put(_Batch(batch, asked, time.perf_counter() if here else None))

    def dispatched(self, result: jax.Array) -> None:
        """Notes that the step is dispatched; `result`, a scalar, is ready at its end."""
        self._events.put(result)

    def take(self) -> float:
        """Returns the seconds since the last call, after the steps dispatched so far have ended."""
        self._events.join()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def close(self) -> None:
        """Ends the thread, without waiting for a step that is running."""
        self._closed.set()
        self._events.put(None)
        self._thread.join()

    def _follow(self) -> None:
        end = -math.inf  # of the last step
        while (event := self._events.get()) is not None:
            if isinstance(event, _Batch):
                had = self._time_of(event.arrays) if event.had is None else event.had
                self._seconds += max(had - max(event.asked, end), 0.0)
            else:
                end = self._time_of(event)
            del event  # its memory may be reused while this thread waits
            self._events.task_done()
        self._events.task_done()

    def _time_of(self, arrays: Any) -> float:
        """Waits until arrays are computed, and returns the time.

        It polls: a thread that waits within JAX while Python exits aborts the process.
        """
        leaves = jax.tree.leaves(arrays)
        # An error of the step is raised where the loop reads the step's metrics.
        with contextlib.suppress(Exception):
            while not all(array.is_ready() for array in leaves) and not self._closed.wait(_POLL):
                pass
        return time.perf_counter()
