"""Compares a long run with faults every few seconds to the same run without faults.

    python -m benchmarks.soak [--place=folder] [--steps=2000] [--seed=0] [--output=FOLDER]
    python -m benchmarks.soak --table=FILE    # prints a report that was kept, as Markdown

A small network learns spoken digits with two loader workers and a checkpoint every 20 steps, in a
folder, or in an emulated bucket (`--place=s3` or `gs`; their packages are the extras stores and
emulation). The first run has no faults. The second one has those of `faults`: signals, damaged
checkpoints, a full disk, numbers that are not finite, flipped bits, moved clocks, another start
that takes over, and in buckets a store that fails; the same command is restarted whenever it ends.
Prints each start and fault, a progress line every 20 seconds, and at the end the report: the faults
by kind, whether both runs end with bitwise equal checkpoints and losses, and the memory in each
quarter of the steps. FOLDER/report.json keeps it. The exit status is 1 if the runs differ or one
ended for another reason than a fault. An interrupted command resumes in the same folder; one in a
bucket, whose emulator ends with the command, begins again. Linux only, as it reads /proc.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

import jax

from benchmarks import result_file
from benchmarks.emulators import store_server
from benchmarks.emulators.fault_proxy import Proxy
from benchmarks.output_folder import check_same
from benchmarks.soak import faults
from benchmarks.soak.program import Program
from benchmarks.soak.record import Record
from benchmarks.soak.report import PLACES, lines, measure
from benchmarks.soak.situation import Situation
from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.progress import ProgressMeter

FLAGS = (
    "--config=configs/demo.py", "--config.model.size=16/1/2:8/1/2", "--config.batch_size=8",
    "--config.model.head.hidden=32", "--config.model.head.bottleneck=16",
    "--config.model.head.outputs=64", "--config.video.size=16", "--config.video.frames=4",
    "--config.video.patch=2,8,8", "--config.video.local_views=0", "--config.audio.local_views=0",
    "--config.data.train_clips=400", "--config.data.records=400", "--config.data.test_clips=20",
    "--config.data.workers=2", "--config.data.worker_timeout=30", "--config.probe.enabled=False",
    "--config.probe.knn_every=0", "--config.pictures_every=0", "--config.report=False",
    "--config.log_every=1", "--config.checkpoint.every_steps=20", "--config.checkpoint.keep_last=3",
    # Every checkpoint is of a step that was checked: none has to be moved away after a flipped bit.
    "--config.check_every=10",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the runs of a soak are.

    Attributes:
      name: a key of `PLACES`.
      folder: for all that is on the disk.
      workdirs: folder or URL of the workdirs.
      environment: variables of the runs.
      proxy: of the store, if there is one.
    """

    name: str
    folder: Path
    workdirs: PurePath
    environment: dict[str, str]
    proxy: Proxy | None

    @classmethod
    @contextlib.contextmanager
    def opened(cls, name: str, folder: Path) -> Iterator[Place]:
        """Yields a place; the emulator of a store is started."""
        if name == "folder":
            yield cls(name, folder, folder, {}, None)
            return
        process, url = store_server.start(name)
        with process:
            try:
                _use(store_server.environment(name, url))
                proxy = Proxy(url)
                through = store_server.environment(name, proxy.url)
                yield cls(name, folder, storage.location(f"{name}://bucket/soak"), through, proxy)
            finally:
                process.kill()

    @property
    def faults(self) -> faults.Faults:
        """The faults that runs there have."""
        others = faults.OF_STORES if self.proxy else faults.OF_FOLDERS
        return {**faults.OF_PROCESSES, **others}

    def workdir(self, record: Record) -> PurePath:
        """Returns the folder or URL of a run."""
        return self.workdirs / record.name

    def starter(self, steps: int, record: Record) -> Callable[[], Program]:
        """Returns a function that starts one of the two runs."""
        command = [
            sys.executable, "-u", "-m", "benchmarks.soak.faulty_run", *FLAGS,
            f"--config.max_steps={steps}", f"--config.data.dir={self.folder / 'data'}",
            f"--workdir={self.workdir(record)}",
        ]  # fmt: skip
        env = {
            "JAX_PLATFORMS": "cpu",
            # Two copies of the state, for the checks of silent corruption.
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            # Later starts reuse compiled programs.
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return lambda: Program(command, steps, record, env | self.environment)


def _use(environment: dict[str, str]) -> None:
    """Lets this process use a store."""
    import fsspec

    os.environ.update(environment)
    fsspec.config.set_conf_env(fsspec.config.conf)


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


def soak(name: str, folder: Path, steps: int, seed: int) -> bool:
    """Completes both runs, prints the report and keeps it; returns whether the soak passed."""
    alone, disturbed = Record(folder, "alone"), Record(folder, "disturbed")
    with Place.opened(name, folder) as place:
        if place.proxy:
            alone.clear()
            disturbed.clear()
        with timed(alone):
            leave_alone(place.starter(steps, alone), steps, alone)
        reached = disturbed.reached()
        due = [
            (step, f) for step, f in faults.schedule(place.faults, steps, seed) if step > reached
        ]
        draw = random.Random(f"{seed} {reached}")
        workdir, start = place.workdir(disturbed), place.starter(steps, disturbed)
        with timed(disturbed):
            faults.disturb(
                lambda: Situation(start, workdir, steps, draw, place.proxy),
                place.faults, due, steps, disturbed,
            )  # fmt: skip
        workdirs = (place.workdir(alone), workdir)
        found = measure(name, workdirs, steps, alone, disturbed, [fault for _, fault in due])
    result_file.write(folder / "report.json", found)
    terminal.print_result("\n".join(lines(found)))
    return bool(found["passed"])


def print_table(file: Path) -> None:
    """Prints a report that was kept.

    Raises:
      UserError: the file is none.
    """
    found = result_file.load(file, "the report of a soak", lambda found: list(lines(found)))
    terminal.print_result("\n".join(lines(found)))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command_parser("benchmarks.soak", __doc__)
    parser.add_argument("--place", choices=PLACES, default="folder", help="of the workdirs")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--output", type=Path, default=Path("runs/soak"))
    parser.add_argument("--table", type=Path, metavar="FILE", help="prints a report that was kept")
    arguments = parser.parse_args(argv)
    if arguments.steps < 1:
        parser.error(f"--steps={arguments.steps}: give 1 or more.")
    folder = arguments.output.absolute()
    jax.config.update("jax_platforms", "cpu")  # this process only reads checkpoints
    # SIGTERM, from a batch scheduler, ends the running program too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = {"place": arguments.place, "steps": arguments.steps, "seed": arguments.seed}
    try:
        if arguments.table:
            print_table(arguments.table)
            return
        check_same(folder, settings)
    except UserError as error:
        parser.error(str(error))
    try:
        passed = soak(arguments.place, folder, arguments.steps, arguments.seed)
    except KeyboardInterrupt:
        terminal.print_error("Stopped; the same command resumes.")
        sys.exit(130)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
