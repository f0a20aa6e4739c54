"""The protocol between the process of a section and the command that started it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from data_pipelines import terminal

# Prefix of lines with results; other lines go to the log.
RESULT = "RESULT "
READY = "READY"
START = "START"


def report(name: str, **values: Any) -> None:
    """Prints a result: a name, and values of JSON types."""
    terminal.print_text(RESULT + json.dumps({"name": name, **values}))
    sys.stdout.flush()


def wait_for_start(waits: bool) -> None:
    """Reports the end of preparation, and waits until the device is not used by other sections.

    Args:
      waits: whether the command will send a line; without it this returns at once.

    Raises:
      SystemExit: the command has ended.
    """
    if not waits:
        return
    terminal.print_text(READY)
    sys.stdout.flush()
    if sys.stdin.readline().strip() != START:
        raise SystemExit("The command that started this section is gone.")


def attempt(name: str, measure: Callable[[], None]) -> None:
    """Runs one measurement; an error becomes its result, and later measurements still run."""
    since = time.perf_counter()
    try:
        measure()
    except Exception as error:  # of a compiler, a library or a full memory
        message = f"{type(error).__name__}: {error}"[:2000]
        report(name, error=message, seconds=round(time.perf_counter() - since, 1))


def block_times(
    step: Callable[[], object],
    wait: Callable[[], object],
    *,
    blocks: int,
    seconds: float,
) -> list[float]:
    """Returns seconds per step for each of several blocks of steps.

    The first two steps are left out; the time of the second determines the steps of a block.

    Args:
      step: starts a step; may return before it has ended.
      wait: returns when the last step has ended.
      blocks: number of blocks.
      seconds: of a block, which has 100 steps at most.
    """

    def timed(steps: int) -> float:
        since = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        return (time.perf_counter() - since) / steps

    timed(1)
    steps = min(max(int(seconds / timed(1)), 1), 100)
    return [timed(steps) for _ in range(blocks)]
