"""The faults, and the run with a fault every few seconds."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.soak.program import Program
from benchmarks.soak.record import Record
from data_pipelines import terminal
from data_pipelines.errors import EXIT_BAD_INPUT
from data_pipelines.progress import ProgressMeter

PAUSE = (0.5, 5.0)  # seconds between a step and the next fault, at random
STUCK = 900.0  # seconds without a step, after which a start is ended
MOST_VAIN_STARTS = 5
UNEXPECTED = "unexpected: "  # prefix of events that no fault explains


def preempt(program: Program, draw: random.Random) -> bool:
    """SIGTERM to the main process, which saves and ends."""
    return program.send(signal.SIGTERM)


def kill(program: Program, draw: random.Random) -> bool:
    """SIGKILL to the main process, at any moment."""
    return program.send(signal.SIGKILL)


def kill_worker(program: Program, draw: random.Random) -> bool:
    """SIGKILL to one of the loader's workers, which the run replaces."""
    workers = program.workers()
    return bool(workers) and program.send_to_worker(draw.choice(workers), signal.SIGKILL)


def stop_worker(program: Program, draw: random.Random) -> bool:
    """SIGSTOP to one of the loader's workers, which the run replaces after a time-out."""
    workers = program.workers()
    return bool(workers) and program.send_to_worker(draw.choice(workers), signal.SIGSTOP)


# Each returns whether it was done: its target may have ended before.
FAULTS: dict[str, Callable[[Program, random.Random], bool]] = {
    "preempted": preempt,
    "killed": kill,
    "worker killed": kill_worker,
    "worker hung": stop_worker,
}
# Relative frequencies; a hung worker takes the whole time-out of the loader.
WEIGHTS = (4, 6, 4, 1)
DAMAGES = ("bit flipped", "file cut off")


def damage_newest(workdir: Path, draw: random.Random) -> str:
    """Flips a bit of the newest checkpoint, or truncates one of its files.

    Args:
      workdir: of the run.
      draw: random generator.

    Returns:
      One of `DAMAGES`; "" if there are fewer than two checkpoints.
    """
    steps = [p for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    if len(steps) < 2:
        return ""
    newest = max(steps, key=lambda p: int(p.name))
    file = draw.choice([p for p in sorted(newest.rglob("*")) if p.is_file() and p.stat().st_size])
    content = bytearray(file.read_bytes())
    damage = draw.choice(DAMAGES)
    if damage == "bit flipped":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    else:
        del content[draw.randrange(len(content)) :]
    file.write_bytes(content)
    return damage


def disturb(
    start: Callable[[], Program],
    workdir: Path,
    steps: int,
    record: Record,
    draw: random.Random,
    pause: tuple[float, float] = PAUSE,
) -> None:
    """Starts the run until it has ended, with a fault every few seconds.

    After an end that no fault explains, the end is recorded and the run restarted, as by a
    launcher. It is not restarted after `MOST_VAIN_STARTS` such ends without a new step, or after
    one with the status of bad input.
    """
    progress = ProgressMeter(record.name, steps, "steps", start=record.reached())
    vain = 0
    while vain < MOST_VAIN_STARTS:
        before = record.reached()
        with start() as program:
            record.note_event(before, "started")
            _follow(program, record, progress, draw, pause)
        status, reached = program.process.returncode, record.reached()
        if not program.is_expected_end():
            record.note_event(reached, f"{UNEXPECTED}status {status}")
            vain = vain + 1 if reached == before else 0
        elif status == 0:
            return
        if status == EXIT_BAD_INPUT:
            return
        if draw.random() < 0.3 and (damage := damage_newest(workdir, draw)):
            record.note_event(reached, damage)


def _follow(
    program: Program,
    record: Record,
    progress: ProgressMeter,
    draw: random.Random,
    pause: tuple[float, float],
) -> None:
    """Injects faults into one start until it has ended."""
    seen = program.step
    while not program.ended(0.2):
        if progress.is_due():
            terminal.print_text(progress.line(record.reached()))
        if program.seconds_without_step() > STUCK:
            record.note_event(program.step, f"{UNEXPECTED}no step in {STUCK:.0f} s")
            return
        # Only the time after the first step counts, so that every start makes progress.
        if program.step == seen or program.ended(draw.uniform(*pause)):
            continue
        (fault,) = draw.choices(list(FAULTS), WEIGHTS)
        if FAULTS[fault](program, draw):
            record.note_event(program.step, fault)
            if program.is_signaled():
                program.ended(STUCK)
            seen = program.step
