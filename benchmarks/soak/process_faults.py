"""Faults of a run's processes, files, data, devices and clock."""

from __future__ import annotations

import random
import resource
import signal
from pathlib import PurePath

from benchmarks.soak import faulty_run
from benchmarks.soak.program import End
from benchmarks.soak.situation import STUCK, Situation
from data_pipelines.errors import EXIT_BAD_INPUT, EXIT_FAILURE
from data_pipelines.format import file_tree, storage
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders

FLIPPED, CUT = "checkpoint with a flipped bit", "checkpoint with a file cut off"
_FULL = 1000  # bytes of a file, as on a full disk


def preempt(at: Situation) -> bool:
    """SIGTERM to the main process, which saves and ends."""
    return at.program.send(signal.SIGTERM) and at.wait_for_end()


def kill(at: Situation) -> bool:
    """SIGKILL to the main process, at any moment."""
    return at.program.send(signal.SIGKILL) and at.wait_for_end()


def kill_worker(at: Situation) -> bool:
    """SIGKILL to one of the loader's workers, which the run replaces."""
    workers = at.program.workers()
    return bool(workers) and at.program.send_to_worker(at.draw.choice(workers), signal.SIGKILL)


def stop_worker(at: Situation) -> bool:
    """SIGSTOP to one of the loader's workers, which the run replaces after a time-out."""
    workers = at.program.workers()
    return bool(workers) and at.program.send_to_worker(at.draw.choice(workers), signal.SIGSTOP)


def take_over(at: Situation) -> bool:
    """Stops the main process until another start has its lease; the first one must end then."""
    stopped = at.program
    stopped.expect(End(EXIT_FAILURE, "was taken over by another process"))
    if not stopped.interrupt(signal.SIGSTOP):
        return False
    following = at.start()
    following.wait_for_step()
    at.continue_with(following)
    stopped.interrupt(signal.SIGCONT)
    stopped.ended(STUCK)
    return True


def damage_checkpoint(at: Situation, damage: str) -> bool:
    """Kills the run and damages its newest checkpoint, `FLIPPED` or `CUT`.

    An older one must be left: otherwise a run refuses to start.
    """
    if len(step_folders(at.workdir / "checkpoints")) < 2:
        return False
    kill(at)
    return damage_newest(at.workdir, damage, at.draw)


def damage_newest(workdir: PurePath, damage: str, draw: random.Random) -> bool:
    """Damages a file of the newest checkpoint, if there is an older one; returns whether it did.

    Args:
      workdir: folder or URL of the run.
      damage: `FLIPPED` or `CUT`.
      draw: of the file and the place in it.
    """
    newest, *older = [str(f) for f in step_folders(workdir / "checkpoints")] or [""]
    if not older:
        return False
    files = [storage.join(newest, name) for name in sorted(file_tree.walk(newest))]
    contents = {file: bytearray(storage.read(file)) for file in files}
    file = draw.choice([file for file, content in contents.items() if content])
    content = contents[file]
    if damage == FLIPPED:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    else:
        del content[draw.randrange(len(content)) :]
    storage.write(file, bytes(content))
    return True


def fill_disk(at: Situation) -> bool:
    """Prevents files of the run from growing, as on a full disk, until it ends."""
    at.program.expect(End(EXIT_BAD_INPUT, "File too large"))
    try:
        _, hard = resource.prlimit(at.program.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(at.program.process.pid, resource.RLIMIT_FSIZE, (_FULL, hard))
    except ProcessLookupError:
        return False
    return at.wait_for_end()


def make_nonfinite(at: Situation) -> bool:
    """A batch with a number that is not finite stops the run."""
    at.program.expect(End(EXIT_BAD_INPUT, "is not finite"))
    return at.program.interrupt(faulty_run.BATCH) and at.wait_for_end()


def flip_bit_of_device(at: Situation) -> bool:
    """A flipped bit in one device's copy of the weights stops the run at the next check."""
    at.program.expect(End(EXIT_FAILURE, "the run stops without saving: take the host out"))
    return at.program.interrupt(faulty_run.BIT) and at.wait_for_end()


def move_clock(at: Situation) -> bool:
    """The time of day jumps, and back again."""
    return at.program.interrupt(faulty_run.CLOCK) and (
        at.wait_for_steps(5) or at.program.interrupt(faulty_run.CLOCK)
    )
