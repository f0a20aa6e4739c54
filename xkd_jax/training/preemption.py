"""Preemption of a run: SIGTERM or Ctrl-C."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

Handler = Callable[[int, FrameType | None], object] | int | None


# JAX needs a counter that never decreases. The step is none: it restarts with every loop.
_points = itertools.count(1)


class Preemption:
    """Detects preemption, at the same step on every process; as a context it handles signals.

    SIGTERM to one process stops all of them. The first Ctrl-C is sent on as SIGTERM, the second one
    ends the process immediately.
    """

    def __init__(self) -> None:
        self._noticed = False
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Preemption:
        handlers: dict[int, Handler] = {signal.SIGINT: _pass_on}
        if not jax.distributed.is_initialized():  # else JAX's notifier handles it
            handlers[signal.SIGTERM] = self._notice
        self._before = {number: signal.signal(number, how) for number, how in handlers.items()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
