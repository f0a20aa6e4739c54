"""Goodput: the share of useful steps in a run's wall time, and the causes of the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Literal, get_args

from data_pipelines.progress import duration
from data_pipelines.terminal import count

# `useful` steps, and the losses: the `start` of the program up to its first step; to `compile` the
# step; to `restore` a checkpoint; `data_wait` of the device; to `save`; to `probe` and to draw; the
# time between two starts (`restart`); `repeated_steps`, which an earlier start had made; and
# `other`, such as log lines.
Cause = Literal[
    "useful", "start", "compile", "restore", "data_wait", "save", "probe", "restart",
    "repeated_steps", "other",
]  # fmt: skip
CAUSES: tuple[Cause, ...] = get_args(Cause)
_SHOWN = 0.001  # smallest share that a description lists


@dataclasses.dataclass(frozen=True)
class Accounts:
    """The wall time of a run since its first start.

    Attributes:
      seconds: by cause; those that are missing have none.
      starts: number of starts of the program.
      reached: the largest number of steps that a start has logged.
      written: when, in seconds since 1970.
      begun: number of steps made before the last start.
      stops: the last starts in a row that were stopped on request and began at that step.
    """

    seconds: dict[str, float]
    starts: int
    reached: int
    written: float
    begun: int = 0
    stops: int = 0

    def shares(self) -> dict[str, float]:
        """Returns the share of the time of every cause; their sum is 1."""
        total = max(sum(self.seconds.values()), 1e-9)
        return {cause: self.seconds.get(cause, 0.0) / total for cause in CAUSES}

    def described(self) -> str:
        """`91.0% of 2 h 03 min in useful steps; lost: compile 6.0%, save 3.0%; 2 starts`."""
        shares = self.shares()
        useful = shares.pop("useful")
        lost = sorted(shares.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{c.replace('_', ' ')} {s:.1%}" for c, s in lost if s >= _SHOWN)
        return (
            f"{useful:.1%} of {duration(sum(self.seconds.values()))} in useful steps"
            + (f"; lost: {listed}" if listed else "")
            + (f"; {count(self.starts, 'start')}" if self.starts > 1 else "")
        )


class Goodput:
    """Accounts for every second of a process once: its causes add up to the wall time."""

    def __init__(
        self,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ):
        """Begins with the cause `start`.

        Args:
          began: when the process began, by `clock`; None: now.
          clock: seconds, which never decrease.
          wall: seconds since 1970, to compare processes.
        """
        self._clock, self._wall = clock, wall
        self._began = self._since = clock() if began is None else began
        self._cause: Cause | None = "start"
        self._seconds: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
        self._stepping = 0.0  # seconds of steps since the last line
        self._starts, self._reached, self._step, self._begun = 1, 0, 0, 0

    def resume(self, before: Accounts) -> None:
        """Adds the accounts of earlier starts; called once, before the first step."""
        for cause, seconds in before.seconds.items():
            self._seconds[cause] += seconds
        begun = self._wall() - (self._clock() - self._began)
        self._seconds["restart"] += max(begun - before.written, 0.0)  # clocks may differ
        self._starts, self._reached = before.starts + 1, before.reached

    def phase(self, cause: Cause) -> AbstractContextManager[None]:
        """Context whose time counts for a cause, except for phases inside it."""
        return self._switched(cause)

    @contextlib.contextmanager
    def steps(self, start: int) -> Iterator[None]:
        """Context whose time is that of steps, which `line` divides among causes.

        Args:
          start: number of steps made before.
        """
        self._step = self._begun = start
        with self._switched(None):
            yield

    def line(self, step: int, waited: float) -> None:
        """Divides the time of steps since the line before among causes.

        Args:
          step: number of steps made; all of them have ended.
          waited: seconds of that time in which the device waited for a batch.
        """
        self._charge()
        waited = min(waited, self._stepping)
        repeated = max(min(step, self._reached) - self._step, 0) / max(step - self._step, 1)
        self._seconds["data_wait"] += waited
        self._seconds["repeated_steps"] += repeated * (self._stepping - waited)
        self._seconds["useful"] += (1 - repeated) * (self._stepping - waited)
        self._stepping, self._step = 0.0, step
        self._reached = max(self._reached, step)

    def accounts(self) -> Accounts:
        """Returns the accounts up to now; steps since the last line are `other`."""
        self._charge()
        other = self._seconds["other"] + self._stepping
        return Accounts(
            self._seconds | {"other": other},
            self._starts,
            self._reached,
            self._wall(),
            self._begun,
        )

    def scalars(self) -> dict[str, float]:
        """Returns the shares of the causes, {`goodput/CAUSE`: share}."""
        return {f"goodput/{cause}": share for cause, share in self.accounts().shares().items()}

    @contextlib.contextmanager
    def _switched(self, cause: Cause | None) -> Iterator[None]:
        self._charge()
        outer, self._cause = self._cause, cause
        try:
            yield
        finally:
            self._charge()
            self._cause = outer

    def _charge(self) -> None:
        now = self._clock()
        if self._cause is None:
            self._stepping += now - self._since
        else:
            self._seconds[self._cause] += now - self._since
        self._since = now
