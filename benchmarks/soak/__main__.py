"""Compares a long run with faults every few seconds to the same run without faults.

    python -m benchmarks.soak [--steps=2000] [--seed=0] [--output=FOLDER]

A small network learns spoken digits with two loader workers and a checkpoint every 20 steps. The
first run has no faults. The second is repeatedly preempted and killed, its workers are killed and
stopped, and its checkpoints are damaged; the same command is restarted whenever it has ended.
Prints each start and fault, a progress line every 20 seconds, and at the end the report: the faults
by kind, whether both runs end with bitwise equal checkpoints and losses, and the memory in each
quarter of the steps. The exit status is 1 if the runs differ or one ended for another reason than a
fault. An interrupted command resumes in the same folder. Linux only, as it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from benchmarks.output_folder import check_same
from benchmarks.soak.faults import disturb
from benchmarks.soak.program import Program
from benchmarks.soak.record import Record
from benchmarks.soak.report import report
from data_pipelines import terminal
from data_pipelines.errors import UserError
from data_pipelines.progress import ProgressMeter

FLAGS = (
    "--config=configs/demo.py", "--config.model.size=24/2/2:16/1/2", "--config.batch_size=16",
    "--config.model.head.hidden=32", "--config.model.head.bottleneck=16",
    "--config.model.head.outputs=64", "--config.data.train_clips=400",
    "--config.data.records=400", "--config.data.test_clips=20", "--config.data.workers=2",
    "--config.data.worker_timeout=30", "--config.probe.enabled=False", "--config.log_every=1",
    "--config.checkpoint.every_steps=20", "--config.checkpoint.keep_last=3",
    "--config.report=False",
)  # fmt: skip


def starter(folder: Path, steps: int, record: Record) -> Callable[[], Program]:
    """Returns a function that starts main.py for one of the two runs."""
    command = [
        sys.executable, "-u", "main.py", *FLAGS, f"--config.max_steps={steps}",
        f"--config.data.dir={folder / 'data'}", f"--workdir={folder / record.name}",
    ]  # fmt: skip
    env = {
        "JAX_PLATFORMS": "cpu",
        # Later starts reuse compiled programs.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return lambda: Program(command, steps, record, env)


def leave_alone(start: Callable[[], Program], steps: int, record: Record) -> None:
    """Runs to the end without a fault.

    Args:
      start: starts the run.
      steps: of the run.
      record: of the run.

    Raises:
      SystemExit: the run failed.
    """
    progress = ProgressMeter(record.name, steps, "steps", start=record.reached())
    with start() as program:
        while not program.ended(1):
            if progress.is_due():
                terminal.print_text(progress.line(record.reached()))
    if program.process.returncode:
        raise SystemExit(f"The run without faults failed: see the end of {record.log}.")


@contextlib.contextmanager
def timed(record: Record) -> Iterator[None]:
    """Records the duration of the block, also after an exception."""
    since = time.monotonic()
    try:
        yield
    finally:
        record.note_seconds(time.monotonic() - since)


def soak(folder: Path, steps: int, seed: int) -> bool:
    """Completes both runs and prints the report; returns whether the soak passed."""
    alone, disturbed = Record(folder, "alone"), Record(folder, "disturbed")
    with timed(alone):
        leave_alone(starter(folder, steps, alone), steps, alone)
    # A resumed command draws another sequence of faults.
    draw = random.Random(f"{seed} {sum(disturbed.events().values())}")
    with timed(disturbed):
        disturb(starter(folder, steps, disturbed), folder / disturbed.name, steps, disturbed, draw)
    text, passed = report(folder, steps, alone, disturbed)
    terminal.print_text(text)
    return passed


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--output", type=Path, default=Path("runs/soak"))
    arguments = parser.parse_args(argv)
    if arguments.steps < 1:
        parser.error(f"--steps={arguments.steps}: give 1 or more.")
    folder = arguments.output.absolute()
    jax.config.update("jax_platforms", "cpu")  # this process only reads checkpoints
    # SIGTERM, from a batch scheduler, ends the running program too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_same(folder, {"steps": arguments.steps, "seed": arguments.seed})
    except UserError as error:
        parser.error(str(error))
    try:
        passed = soak(folder, arguments.steps, arguments.seed)
    except KeyboardInterrupt:
        terminal.print_error("Stopped; the same command resumes.")
        sys.exit(130)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
