"""Targets of faults: the running program, its files and its store."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import PurePath

from benchmarks.emulators.fault_proxy import Proxy
from benchmarks.soak.program import Program

STUCK = 900.0  # seconds without a step, after which a start is ended


class Situation:
    """A run that is disturbed.

    Attributes:
      program: the start that a fault concerns.
      workdir: folder or URL of the run.
      steps: of the whole run.
      draw: random generator.
      start: starts the same command once more.
    """

    def __init__(
        self,
        start: Callable[[], Program],
        workdir: PurePath,
        steps: int,
        draw: random.Random,
        proxy: Proxy | None = None,
    ):
        """Starts the program.

        Args:
          start: starts it.
          workdir: folder or URL of the run.
          steps: of the whole run.
          draw: random generator.
          proxy: of the store, if the workdir is in one.
        """
        self.workdir, self.steps, self.draw = workdir, steps, draw
        self.start, self._proxy = start, proxy
        self.program = start()
        self.replaced: list[Program] = []

    @property
    def store(self) -> Proxy:
        """The proxy before the store."""
        assert self._proxy is not None, "the fault is of a store"
        return self._proxy

    def continue_with(self, program: Program) -> None:
        """Replaces the program by another start; the one before must end."""
        self.replaced.append(self.program)
        self.program = program

    def wait_for_end(self) -> bool:
        """Waits for the end of the program; returns True."""
        self.program.ended(STUCK)
        return True

    def wait_for_steps(self, number: int) -> bool:
        """Waits until the program has made so many steps; returns whether it has ended before."""
        first, limit = self.program.step, time.monotonic() + STUCK
        while self.program.step < first + number and time.monotonic() < limit:
            if self.program.ended(0.1):
                return True
        return False
