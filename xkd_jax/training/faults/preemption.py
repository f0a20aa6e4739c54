"""Preemption of a run: SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from data_pipelines import resumable_end, terminal
from data_pipelines.errors import EXIT_INTERRUPTED
from data_pipelines.signal_listener import SignalListener

Handler = Callable[[int, FrameType | None], object] | int | None


# JAX needs a counter that never decreases. The step is not: it restarts with every loop.
_points = itertools.count(1)

STOPPING = "stopping after this step and saving; Ctrl-C again ends now without saving"
# Seconds between the second Ctrl-C and a forced exit: Python can't exit normally during a long
# step.
PATIENCE = 2.0


class Preemption:
    """Detects preemption, at the same step on every process; as a context it handles signals.

    SIGTERM to one process stops all of them. The first Ctrl-C is forwarded as SIGTERM, the second
    one ends the process. Their effect is printed immediately, also while a step runs or compiles.
    In phases that `resumable_end.allowed` marks, SIGTERM may end the process at once.
    """

    def __init__(self, stopping: str = STOPPING):
        """Creates an object that handles no signals yet.

        Args:
          stopping: printed at the first Ctrl-C.
        """
        self._noticed = False
        self._before: dict[int, Handler] = {}
        self._interrupts = _Interrupts(stopping)
        self._listener = SignalListener(self._interrupts.answer)
        self._deferral = contextlib.ExitStack()

    def __enter__(self) -> Preemption:
        handlers: dict[int, Handler] = {signal.SIGINT: _pass_on}
        if not jax.distributed.is_initialized():  # else JAX's notifier handles it
            handlers[signal.SIGTERM] = self._notice
        self._before = {number: signal.signal(number, how) for number, how in handlers.items()}
        self._deferral.enter_context(resumable_end.deferred())
        self._listener.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._interrupts.closed.set()
        self._listener.close()
        for number, how in self._before.items():
            signal.signal(number, how)
        self._deferral.__exit__(kind, error, traceback)

    def reached(self) -> bool:
        """Whether to save and stop after this step; every process must call it equally often.

        Once it is True it remains so.
        """
        if jax.distributed.is_initialized() and not self._noticed:
            self._noticed = multihost_utils.reached_preemption_sync_point(next(_points))
        return self._noticed

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True


def _pass_on(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGTERM)


class _Interrupts:
    """Handles SIGTERM and Ctrl-C."""

    def __init__(self, stopping: str):
        self._stopping, self._count = stopping, 0
        self.closed = threading.Event()

    def answer(self, number: int) -> None:
        """Handles one signal."""
        if number == signal.SIGTERM:
            resumable_end.request()
        if number != signal.SIGINT:
            return
        self._count += 1
        if self._count == 1:
            terminal.print_error(self._stopping)
        elif not self.closed.wait(PATIENCE):
            os._exit(EXIT_INTERRUPTED)
