"""The notice that this run must soon make room: SIGTERM, or Ctrl-C."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Tells when to stop, at the same step on every process; while it is open, signals wait.

    SIGTERM to any process counts for all of them. The first Ctrl-C is passed on as SIGTERM, the
    second one ends the process at once.
    """

    def __init__(self) -> None:
        self._noticed = False

    def __enter__(self) -> Preemption:
        signal.signal(signal.SIGINT, _pass_on)
        if not jax.distributed.is_initialized():  # else JAX's own notifier listens
            signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def reached(self, step: int) -> bool:
        """Whether to save after this step and stop; every process must ask at every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noticed

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._noticed = True


def _pass_on(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGTERM)
