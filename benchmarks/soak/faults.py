"""The catalogue of faults, when each happens, and the run that has them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.soak import process_faults, store_faults
from benchmarks.soak.record import Record
from benchmarks.soak.situation import STUCK, Situation
from data_pipelines import terminal
from data_pipelines.errors import EXIT_BAD_INPUT
from data_pipelines.progress import ProgressMeter

MOST_VAIN_STARTS = 5
UNEXPECTED = "unexpected: "  # prefix of events that no fault explains
_LATER = 20  # steps until a fault whose target was missing is tried again


class Fault(NamedTuple):
    """A fault, and how often it happens in 2,000 steps.

    Attributes:
      do: causes the fault; returns whether it happened, as its target may have ended before.
      times: in 2,000 steps; once at least.
    """

    do: Callable[[Situation], bool]
    times: int


Faults = Mapping[str, Fault]

OF_PROCESSES: Faults = {
    "killed": Fault(process_faults.kill, 6),
    "preempted": Fault(process_faults.preempt, 4),
    "worker killed": Fault(process_faults.kill_worker, 6),
    "worker hung": Fault(process_faults.stop_worker, 2),
    "stopped, and its lease taken over": Fault(process_faults.take_over, 2),
    **{
        damage: Fault(functools.partial(process_faults.damage_checkpoint, damage=damage), 3)
        for damage in (process_faults.FLIPPED, process_faults.CUT)
    },
    "number that is not finite": Fault(process_faults.make_nonfinite, 2),
    "flipped bit on a device": Fault(process_faults.flip_bit_of_device, 2),
    "clock moved": Fault(process_faults.move_clock, 3),
}
OF_FOLDERS: Faults = {"full disk": Fault(process_faults.fill_disk, 2)}
OF_STORES: Faults = {
    "answers 503": Fault(store_faults.often("503"), 3),
    "answers cut": Fault(store_faults.often("cut"), 3),
    "connections lost": Fault(store_faults.often("lost before"), 3),
    "answers lost": Fault(store_faults.often("lost after"), 3),
    "slow answers": Fault(store_faults.answer_slowly, 2),
    "stalled answer": Fault(store_faults.stall, 1),
    "stalled arrays": Fault(store_faults.stall_arrays, 1),
    "minute without connection": Fault(store_faults.lose_connection, 1),
    "expired credentials": Fault(store_faults.expire_credentials, 2),
    "removals denied": Fault(store_faults.deny_removals, 2),
}


def schedule(faults: Faults, steps: int, seed: int) -> list[tuple[int, str]]:
    """Draws after which steps faults happen; the last tenth of the run has none.

    Args:
      faults: by name.
      steps: of the run.
      seed: of the draw.

    Returns:
      (step, name of a fault), sorted.
    """
    draw = random.Random(seed)
    return sorted(
        (draw.randint(1, max(1, 9 * steps // 10)), name)
        for name, fault in faults.items()
        for _ in range(max(1, round(fault.times * steps / 2000)))
    )


def disturb(
    begin: Callable[[], Situation],
    faults: Faults,
    due: list[tuple[int, str]],
    steps: int,
    record: Record,
    pause: float = 0.5,
) -> None:
    """Starts the run until it has ended, with the faults that are due.

    After an end that no fault explains, the end is recorded and the run restarted, as by a
    launcher. It is not restarted after `MOST_VAIN_STARTS` such ends without a new step.

    Args:
      begin: starts the program.
      faults: by name.
      due: those of `schedule` that are left; done ones are removed.
      steps: of the run.
      record: of the run.
      pause: seconds between a step and the fault after it, at most.
    """
    progress = ProgressMeter(record.name, steps, "steps", start=record.reached())
    vain = 0
    while vain < MOST_VAIN_STARTS:
        before = record.reached()
        record.note_event(before, "started")
        at = begin()
        try:
            _follow(at, faults, due, record, progress, pause)
        finally:
            for program in (at.program, *at.replaced):
                program.end()
        reached = record.reached()
        for program in (*at.replaced, at.program):
            if not program.is_expected_end():
                status = program.process.returncode
                record.note_event(reached, f"{UNEXPECTED}status {status}")
                vain = vain + 1 if reached == before else 0
        if at.program.process.returncode == 0:
            return
        if at.program.process.returncode == EXIT_BAD_INPUT and not at.program.is_expected_end():
            return


def _follow(
    at: Situation,
    faults: Faults,
    due: list[tuple[int, str]],
    record: Record,
    progress: ProgressMeter,
    pause: float,
) -> None:
    """Causes faults in one start until it has ended."""
    seen = at.program.step
    while not at.program.ended(0.05):
        if progress.is_due():
            terminal.print_text(progress.line(record.reached()))
        if at.program.seconds_without_step() > STUCK:
            record.note_event(at.program.step, f"{UNEXPECTED}no step in {STUCK:.0f} s")
            return
        # Only the time after the first step counts, so that every start makes progress.
        if at.program.step == seen or not due or at.program.step < due[0][0]:
            continue
        if at.program.ended(at.draw.uniform(0, pause)):
            continue
        _, name = due.pop(0)
        step, program = at.program.step, at.program
        if faults[name].do(at):
            record.note_event(step, name)
            if at.program is not program:
                record.note_event(step, "started")
        else:
            due.append((step + _LATER, name))
            due.sort()
        seen = at.program.step
