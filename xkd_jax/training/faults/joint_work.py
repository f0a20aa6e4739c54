"""Long work that the processes of a run share before the first step, such as making shards."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jax.experimental import multihost_utils

from data_pipelines.errors import StoppedError, UserError, kind_of
from xkd_jax.training.faults.preemption import Preemption

_T = TypeVar("_T")
EVERY = 2.0  # seconds between two exchanges
_WORKING, _ENDED = -1, 0  # states; above: the exit status of a failure


class JointWork:
    """Runs an action on all processes at the same time, with a different duration on each.

    The processes exchange their states every few seconds, so that none waits for long in a
    collective, which has a time limit. A failure or a preemption ends the action on all of them.
    """

    def __init__(self, what: str, preemption: Preemption):
        """Creates an object without an action.

        Args:
          what: the work, for messages (`making shards`).
          preemption: the signals.
        """
        self._what, self._preemption = what, preemption
        self._last = time.monotonic()
        self._over = False

    def run(self, action: Callable[[], _T]) -> _T:
        """Runs an action, which calls `tick`; returns its result when all processes have ended.

        Args:
          action: of this process.

        Raises:
          UserError: the action raised it, here or on another process.
          StoppedError: the run is preempted.
        """
        try:
            result = action()
        except UserError as error:
            if not self._over:
                self._exchange(error.status)
            raise
        while not self._exchange(_ENDED):
            time.sleep(EVERY / 2)
        return result

    def tick(self) -> None:
        """Exchanges states if it is time to; must be called every few seconds.

        Raises:
          UserError: another process failed.
          StoppedError: the run is preempted.
        """
        if time.monotonic() - self._last >= EVERY:
            self._exchange(_WORKING)

    def _exchange(self, mine: int) -> bool:
        """Returns whether all actions have ended."""
        states = np.ravel(multihost_utils.process_allgather(np.array(mine)))
        preempted = self._preemption.reached()
        self._last = time.monotonic()
        if (status := int(states.max())) > _ENDED:
            self._over = True
            if mine > _ENDED:
                return True  # the caller raises the error
            raise kind_of(status)(
                f"Another process of the run failed while {self._what}: see its output."
            )
        if preempted:
            raise StoppedError(f"while {self._what}, as requested: run the same command to resume")
        return bool((states == _ENDED).all())
