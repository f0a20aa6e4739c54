"""Preemption of a run: SIGTERM or Ctrl-C."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from data_pipelines import terminal
from data_pipelines.errors import EXIT_INTERRUPTED

Handler = Callable[[int, FrameType | None], object] | int | None


# JAX needs a counter that never decreases. The step is none: it restarts with every loop.
_points = itertools.count(1)

STOPPING = "stopping after this step and saving; Ctrl-C again ends now without saving"
# Seconds that the second Ctrl-C gives Python to end in order, which it can't during a long step.
PATIENCE = 2.0
_END = b"\0"  # no signal's number


class Preemption:
    """Detects preemption, at the same step on every process; as a context it handles signals.

    SIGTERM to one process stops all of them. The first Ctrl-C is sent on as SIGTERM, the second one
    ends the process. What they do is printed immediately, also while a step runs or compiles.
    """

    def __init__(self, stopping: str = STOPPING):
        """Creates an object that handles no signals yet.

        Args:
          stopping: printed at the first Ctrl-C.
        """
        self._noticed = False
        self._before: dict[int, Handler] = {}
        self._interrupts = _Interrupts(stopping)

    def __enter__(self) -> Preemption:
        handlers: dict[int, Handler] = {signal.SIGINT: _pass_on}
        if not jax.distributed.is_initialized():  # else JAX's notifier handles it
            handlers[signal.SIGTERM] = self._notice
        self._before = {number: signal.signal(number, how) for number, how in handlers.items()}
        self._interrupts.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._interrupts.close()
        for number, how in self._before.items():
            signal.signal(number, how)

    def reached(self) -> bool:
        """Whether to save and stop after this step; every process must call it after each step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(next(_points))
        return self._noticed

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True


def _pass_on(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGTERM)


class _Interrupts:
    """Answers Ctrl-C from a thread: Python's handlers wait for the call that the main one is in."""

    def __init__(self, stopping: str):
        self._stopping = stopping
        self._read = self._write = self._before = -1
        self._thread = threading.Thread(target=self._listen, name="ctrl-c", daemon=True)
        self._closed = threading.Event()

    def open(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        self._closed.set()
        os.write(self._write, _END)
        self._thread.join()
        os.close(self._write)
        os.close(self._read)

    def _listen(self) -> None:
        count = 0
        while (number := os.read(self._read, 1)) != _END:
            if number[0] != signal.SIGINT:
                continue
            count += 1
            if count == 1:
                terminal.print_error(self._stopping)
            elif not self._closed.wait(PATIENCE):
                os._exit(EXIT_INTERRUPTED)
