"""Handles signals in a thread, as Python's handlers wait until the main thread's call returns."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

_END = b"\0"  # no signal's number


class SignalListener:
    """Calls a function from a thread for each signal that has a Python handler.

    It does so also while the main thread compiles or waits in a library. An inner listener takes
    the signals of an outer one until it is closed.
    """

    def __init__(self, answer: Callable[[int], object]):
        """Creates a listener that does not listen yet.

        Args:
          answer: called with the number of each signal.
        """
        self._answer = answer
        self._read = self._write = self._before = -1
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)

    def open(self) -> None:
        """Starts to listen; on the main thread."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._forget)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; on the main thread."""
        signal.set_wakeup_fd(self._before)
        os.write(self._write, _END)
        self._thread.join()
        os.close(self._write)
        os.close(self._read)
        self._write = -1

    def _forget(self) -> None:
        """Stops a forked process from sending its signals to this one."""
        if self._write >= 0:
            signal.set_wakeup_fd(-1)

    def _listen(self) -> None:
        while (number := os.read(self._read, 1)) != _END:
            self._answer(number[0])
