"""A long run with faults every few seconds, beside the same run left alone.

    python -m benchmarks.soak [--steps=2000] [--seed=0] [--output=FOLDER]

A small network learns spoken digits with two loader workers and a checkpoint every 20 steps. The
first run is left alone, the second is preempted, killed, robbed of its workers and given damaged
checkpoints, again and again, and started again by the same command whenever it has ended. Prints
what was done to it, and then JSON: the faults by kind, whether both runs ended in the same bits,
whether every step's losses are on record and the same, and the memory in the course of both. With
the same folder the command goes on where it was stopped. Linux only, since it looks for processes
in /proc.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.event_files import scalars
from xkd_jax.errors import FAILURE_STATUS, GO_ON_STATUS

FLAGS = (
    "--config=configs/demo.py", "--config.model.size=24/2/2:16/1/2", "--config.batch_size=16",
    "--config.model.head.hidden=32", "--config.model.head.bottleneck=16",
    "--config.model.head.outputs=64", "--config.data.train_clips=400",
    "--config.data.records=400", "--config.data.test_clips=20", "--config.data.workers=2",
    "--config.data.worker_timeout=30", "--config.probe.enabled=False", "--config.log_every=1",
    "--config.checkpoint.every_steps=20", "--config.checkpoint.keep_last=3",
)  # fmt: skip
SAVED = ("student", "teacher", "rest")
_STEP = re.compile(r"^step +(\d+)/")


class Record:
    """What is noted of one of the two runs, in files of the output folder."""

    def __init__(self, folder: Path, name: str):
        self.log = folder / f"{name}.log"
        self._memory, self._events = folder / f"{name}.memory", folder / f"{name}.events"

    def note_memory(self, step: int, main: int, worker: int) -> None:
        """Notes the resident megabytes of the main process and of its largest worker."""
        with self._memory.open("a") as file:
            file.write(f"{step} {main} {worker}\n")

    def note_event(self, step: int, event: str) -> None:
        """Notes a start or a fault, and prints it."""
        with self._events.open("a") as file:
            file.write(f"{event}\n")
        print(f"step {step:5d}  {event}", flush=True)

    def events(self) -> dict[str, int]:
        """Returns how often each happened."""
        return dict(collections.Counter(_lines(self._events)))

    def memory(self, steps: int) -> dict[str, list[int]]:
        """Returns the largest megabytes in each quarter of the steps."""
        noted = [tuple(map(int, line.split())) for line in _lines(self._memory)]
        quarters = [
            [row for row in noted if q * steps <= 4 * row[0] < (q + 1) * steps] for q in range(4)
        ]
        return {
            name: [max((row[column] for row in quarter), default=0) for quarter in quarters]
            for column, name in ((1, "main"), (2, "worker"))
        }


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


class Program:
    """main.py in a process of its own, watched by its progress line."""

    def __init__(self, workdir: Path, data: Path, steps: int, record: Record):
        flags = [
            *FLAGS, f"--config.max_steps={steps}", f"--config.data.dir={data}",
            f"--workdir={workdir}",
        ]  # fmt: skip
        cache = {"JAX_COMPILATION_CACHE_DIR": str(data.parent / "cache"), "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [sys.executable, "-u", "main.py", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        )  # fmt: skip
        self.step, self.last_line = -1, ""
        self.stopped: list[int] = []
        self._steps, self._record = steps, record
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self._record.log.open("a") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                self.last_line = line
                if found := _STEP.match(line):
                    self.step = int(found[1])
                    largest = max(map(_megabytes, self.workers()), default=0)
                    self._record.note_memory(self.step, _megabytes(self.process.pid), largest)

    @property
    def trained(self) -> bool:
        """Whether the last step is done, so that all that is left is to end."""
        return self.step == self._steps

    def workers(self) -> list[int]:
        """Returns the process numbers of the loader's workers."""
        return [
            child
            for child in _children(self.process.pid)
            if b"spawn_main" in _proc(child, "cmdline")
        ]

    def ended(self, within: float) -> bool:
        """Waits for the end, so many seconds at most."""
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        for worker in self.stopped:  # it can't follow the main process by itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self._reader.join()
        return True


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended
        return b""


def _children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        status = _proc(int(entry), "stat") if entry.isdigit() else b""
        if status and int(status.rpartition(b")")[2].split()[1]) == pid:
            found.append(int(entry))
    return found


def _megabytes(pid: int) -> int:
    pages = _proc(pid, "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20 if pages else 0


def preempt(program: Program, draw: random.Random) -> None:
    """SIGTERM: it saves and ends with the status that says so, or by the signal, once trained."""
    program.process.terminate()
    ended, status = program.ended(120), program.process.returncode
    if not ended or status not in (0, GO_ON_STATUS, -signal.SIGTERM if program.trained else 0):
        raise SystemExit(f"After SIGTERM main.py ended with {status}.")


def kill(program: Program, draw: random.Random) -> None:
    """kill -9, at any moment."""
    program.process.kill()
    program.ended(60)


def kill_worker(program: Program, draw: random.Random) -> None:
    """kill -9 of one of the loader's processes; the run goes on."""
    if workers := program.workers():
        os.kill(draw.choice(workers), signal.SIGKILL)


def stop_worker(program: Program, draw: random.Random) -> None:
    """One of the loader's processes hangs; the run kills it in the end and goes on."""
    if workers := program.workers():
        program.stopped.append(draw.choice(workers))
        os.kill(program.stopped[-1], signal.SIGSTOP)


FAULTS: dict[str, Callable[[Program, random.Random], None]] = {
    "preempted": preempt,
    "killed": kill,
    "worker killed": kill_worker,
    "worker hangs": stop_worker,
}
# How often each is chosen; a hang takes the loader's whole time-out.
WEIGHTS = (4, 6, 4, 1)


def damage_newest(workdir: Path, draw: random.Random) -> str:
    """Flips a bit of the newest checkpoint, or cuts off one of its files; returns which."""
    steps = [p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
    if len(steps) < 2:
        return ""
    newest = max(steps, key=lambda p: int(p.name))
    file = draw.choice([p for p in sorted(newest.rglob("*")) if p.is_file() and p.stat().st_size])
    content = bytearray(file.read_bytes())
    if draw.random() < 0.5:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        kind = "bit flipped"
    else:
        del content[draw.randrange(len(content)) :]
        kind = "file cut off"
    file.write_bytes(content)
    return kind


def disturb(
    start: Callable[[], Program], workdir: Path, record: Record, draw: random.Random
) -> None:
    """Runs to the end with a fault every few seconds."""
    reached = 0
    while True:
        program = start()
        record.note_event(reached, "started")
        seen = program.step
        while not program.ended(0.2):
            if program.step == seen:
                continue  # the seconds to the next fault count while it makes steps
            if program.ended(draw.uniform(2, 10)):
                break
            (fault,) = draw.choices(list(FAULTS), WEIGHTS)
            FAULTS[fault](program, draw)
            seen = program.step
            record.note_event(seen, fault)
        reached = max(reached, program.step)
        code = program.process.returncode
        if code == 0:
            return
        if code == FAILURE_STATUS and "worker processes were lost" in program.last_line:
            record.note_event(reached, "ended for its workers")
        elif code not in (GO_ON_STATUS, -signal.SIGKILL, -signal.SIGTERM):
            raise SystemExit(f"main.py ended with {code}: see the log in {workdir.parent}.")
        if draw.random() < 0.3 and (damage := damage_newest(workdir, draw)):
            record.note_event(reached, f"newest checkpoint: {damage}")


def losses(workdir: Path) -> dict[int, float]:
    """Returns the loss of each step that is on record."""
    return {step: found["loss"] for step, found in scalars(workdir).items() if "loss" in found}


def values(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by their paths, read without any of ours."""
    found = {}
    handler = ocp.PyTreeCheckpointHandler()
    for item in SAVED:
        folder = (workdir / "checkpoints" / str(step) / item).absolute()
        # As NumPy's arrays, since this process may not have the devices that the run had.
        kinds = jax.tree.map(
            lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree
        )
        tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def measure(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Runs both, and compares how they ended."""
    records = {name: Record(folder, name) for name in ("alone", "disturbed")}

    def starter(name: str) -> Callable[[], Program]:
        return lambda: Program(folder / name, folder / "data", steps, records[name])

    since = time.monotonic()
    alone = starter("alone")()
    while not alone.ended(10):
        print(f"left alone: step {alone.step}", flush=True)
    if alone.process.returncode:
        raise SystemExit(f"The run that is left alone failed: see {folder / 'alone.log'}.")
    between = time.monotonic()
    noted = records["disturbed"]
    disturb(starter("disturbed"), folder / "disturbed", noted, random.Random(seed))
    whole, other = (
        {path: array.tobytes() for path, array in values(folder / name, steps).items()}
        for name in records
    )
    expected, found = (losses(folder / name) for name in records)
    return {
        "steps": steps,
        "events": noted.events(),
        "same_bits_at_the_end": whole == other,
        "losses_on_record": {"alone": len(expected), "disturbed": len(found)},
        "losses_that_differ": sum(found.get(s) != loss for s, loss in expected.items()),
        "largest_megabytes_in_each_quarter": {n: r.memory(steps) for n, r in records.items()},
        "minutes": {
            "alone": round((between - since) / 60, 1),
            "disturbed": round((time.monotonic() - between) / 60, 1),
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the soak."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--output", type=Path, help="keeps the runs there")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(folder.absolute(), arguments.steps, arguments.seed), indent=2))


if __name__ == "__main__":
    main()
