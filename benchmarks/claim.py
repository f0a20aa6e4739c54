"""The paper's Tables 1 and 3 on spoken digits: what each part of the method adds, over seeds.

    python -m benchmarks.claim [--table=claim|study] [--output=runs/claim] [--seeds=0,1,2]
        [--rows=xkd,...] [--steps=2400] [--jobs=2] [--speech_dir=DIR]

Pretrains each row with each seed by `configs/demo.py`, for twice the demo's steps, on one data set,
and evaluates student and teacher on held-out writers and voices: linear probes of video and of
audio, a linear SVM on both, and retrieval of the same word across modalities (recall at 1). The
last column is the mutual information between clip and teacher output at the end, for video and
audio: entropy of the mean output of a batch minus mean entropy, in nats; 0 after a collapse.
Further tables have the students of each seed and the information of audio teachers during the run;
the last line has the gain of all losses over reconstruction for each seed. `--table=study` changes
one setting of the method at a time, for the demo's 1,200 steps, and repeats the ablation of
alignment with larger audio patches. Several cells of the table run in parallel, each on a part of
the cores, as small networks gain little from a second core. Cells in the output folder are reused,
so the command can be interrupted and repeated. After each cell it prints the table (mean and
standard deviation over the finished seeds), the core hours and the time left, and writes it to
`table.md`. Linux only, for CPU affinity.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from benchmarks.arguments import whole_numbers
from benchmarks.claim_tables import UNTRAINED, Cell, Scores, describe, information, networks
from benchmarks.output_folder import check_same
from configs import demo
from data_pipelines import spoken_digits, terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from data_pipelines.progress import duration
from xkd_jax.config import pretraining as config_lib

# {table: {row: (its variant of configs/demo.py, {setting: value})}}
TABLES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "claim": {
        # with an evaluation of the untrained networks
        "reconstruction_video": ("reconstruction_video", {"modalities": ("video", "audio")}),
        "reconstruction": ("reconstruction", {}),
        "distillation": ("distillation", {}),
        "alignment": ("alignment", {}),
        "no_refinement": ("no_refinement", {}),
        "xkd": ("xkd", {}),
        "mas": ("mas", {}),
        "mats": ("mats", {}),
        "local_teacher_view": ("xkd", {"loss.teacher_view": "local"}),
    },
    "study": {
        "reconstruction": ("reconstruction", {}),
        "distillation": ("distillation", {}),
        "xkd": ("xkd", {}),
        # with such patches, an untrained teacher's output depends more on the start of the word
        # than on the word
        "reconstruction_8x16": ("reconstruction", {"audio.patch": (8, 16)}),
        "distillation_8x16": ("distillation", {"audio.patch": (8, 16)}),
        "alignment_8x16": ("alignment", {"audio.patch": (8, 16)}),
        "xkd_8x16": ("xkd", {"audio.patch": (8, 16)}),
        "sharper_teachers": (
            "xkd",
            {
                f"loss.{m}_teacher_temperature.{when}": 0.05
                for m in ("video", "audio")
                for when in ("start", "end")
            },
        ),
        "softer_students": ("xkd", {"loss.student_temperature": 0.2}),
        "no_centering": ("xkd", {"loss.center_momentum": 1.0}),
        "ema_from_0.997": ("xkd", {"optimizer.ema_start": 0.997}),
        "teachers_as_they_start": ("xkd", {"optimizer.ema_start": 1.0}),
        "directions_alike": ("xkd", {"loss.weights.distill_video_to_audio": 10.0}),
        "weights_of_the_paper": (
            "xkd",
            {
                "loss.weights.distill_video_to_audio": 0.5,
                "loss.weights.distill_audio_to_video": 0.5,
            },
        ),
        "no_local_views": ("xkd", {"video.local_views": 0, "audio.local_views": 0}),
        "two_local_views": ("xkd", {"video.local_views": 2, "audio.local_views": 2}),
        "smaller_local_views": (
            "xkd",
            {"video.local_augment.area": (0.4, 0.8), "audio.local_columns": 16},
        ),
        "batch_32": ("xkd", {"batch_size": 32}),
        "batch_128": ("xkd", {"batch_size": 128}),
    },
}
STEPS = {"claim": 2400, "study": 1200}
PRETRAINED, RESULT = (
    "results.json",
    "result.json",
)  # result files of a pretraining run and of an evaluation
# {config of an evaluation: its folder in the workdir of the run}
EVALUATIONS = (("spoken_digits.py:both", "both"), ("retrieval.py", "retrieval"))
_BATCH = demo.get_config().batch_size
_RETRIEVAL = ("video_to_audio_same_class_recall_1", "audio_to_video_same_class_recall_1")


class Table:
    """The scores of each row and seed, computed by several threads."""

    def __init__(self, name: str, output: Path, steps: int, speech_dir: str, jobs: int):
        self._rows = TABLES[name]
        self._output = output
        self._data = [
            f"--config.data.dir={output / 'data'}", f"--config.data.speech_dir={speech_dir}",
        ]  # fmt: skip
        self._steps = steps
        # Sets of cores, each used by one cell at a time.
        self._core_sets: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        cores = sorted(os.sched_getaffinity(0))
        for job in range(jobs):
            self._core_sets.put(cores[job::jobs] or cores)
        self._jobs = jobs
        self._done: dict[tuple[str, int], Cell] = {}
        self._lock = threading.Lock()
        self._stopped = False
        self._running: set[subprocess.Popen[bytes]] = set()

    def make(self, cells: Sequence[tuple[str, int]]) -> None:
        """Pretrains and evaluates each (row, seed), and prints the table after each new cell.

        Raises:
          UserError: a run failed; parallel runs have ended.
          KeyboardInterrupt: the command was interrupted; the runs have saved and ended.
        """
        new = [cell for cell in cells if not self._is_made(*cell)]
        self._done = {cell: self._read(*cell, cores=[]) for cell in self._made()}
        self._print(f"{len(cells) - len(new)} of {len(cells)} cells are finished.")
        since = time.monotonic()
        with futures.ThreadPoolExecutor(self._jobs) as pool:
            started = {pool.submit(self._make, *cell): cell for cell in new}
            try:
                for count, future in enumerate(futures.as_completed(started), 1):
                    self._done[started[future]] = future.result()
                    left = len(new) - count
                    took = (time.monotonic() - since) / count
                    self._print(
                        f"{len(cells) - left} of {len(cells)} cells, left {duration(took * left)}"
                    )
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, UserError):
                    self._stop()
                raise

    def _made(self) -> list[tuple[str, int]]:
        """Returns all finished cells in the folder."""
        names = (path.name.rsplit("-", 1) for path in sorted(self._output.glob("*-*")))
        found = [(row, int(seed)) for row, seed in names if row in self._rows and seed.isdecimal()]
        return [cell for cell in found if self._is_made(*cell)]

    def _make(self, row: str, seed: int) -> Cell:
        cores = self._core_sets.get()
        try:
            return self._read(row, seed, cores)
        finally:
            self._core_sets.put(cores)

    def _run(
        self, config: str, workdir: Path, result: str, flags: Sequence[str], cores: Sequence[int]
    ) -> dict[str, Any]:
        """Returns the result of a run of main.py, which is started if it is not finished.

        Raises:
          UserError: the run failed (see its log), or the table was stopped.
        """
        if not (workdir / result).exists():
            workdir.mkdir(parents=True, exist_ok=True)
            command = [
                sys.executable, "main.py", f"--config={config}", f"--workdir={workdir}", *flags,
            ]  # fmt: skip
            since = time.monotonic()
            with (workdir / "log").open("a") as log, self._lock:
                if self._stopped:
                    raise UserError("The table was stopped.")
                terminal.print_text(terminal.escaped(f"$ {' '.join(command)}"))
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
                self._running.add(process)
            os.sched_setaffinity(process.pid, cores)  # before the process counts its cores
            status = process.wait()
            with self._lock:
                self._running.remove(process)
            with (workdir / "core_seconds").open("a") as file:
                file.write(f"{(time.monotonic() - since) * len(cores):.0f}\n")
            if status:
                raise UserError(f"main.py ended with {status}: see {workdir / 'log'}.")
        return json.loads((workdir / result).read_text(encoding="utf-8"))

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()

    def _print(self, progress: str) -> None:
        text = f"{describe(self._rows, self._done)}\n\n{self._core_hours():.1f} core hours.\n"
        (self._output / "table.md").write_text(text, encoding="utf-8")
        terminal.print_text(f"{text}\n{progress}")

    def _is_made(self, row: str, seed: int) -> bool:
        workdir = self._output / f"{row}-{seed}"
        files = [
            f"{folder}/{network}/{RESULT}" for _, folder in EVALUATIONS for network in networks(row)
        ]
        return all((workdir / file).exists() for file in (PRETRAINED, *files))

    def _read(self, row: str, seed: int, cores: list[int]) -> Cell:
        """Returns the results of a cell, after running its missing parts on these cores."""
        variant, settings = self._rows[row]
        workdir = self._output / f"{row}-{seed}"
        steps = self._steps * _BATCH // settings.get("batch_size", _BATCH)  # equal number of clips
        settings = {"seed": seed, "max_steps": steps, "report": False, **settings}
        flags = [*self._data, *(f"--config.{key}={value}" for key, value in settings.items())]
        pretrained = self._run(f"configs/demo.py:{variant}", workdir, PRETRAINED, flags, cores)
        probes = pretrained["linear_probe_top1"]
        scores: dict[str, Scores] = {}
        for network in networks(row):
            when, name = ("before", "student") if network == UNTRAINED else ("after", network)
            flags = [*self._data[:1], f"--config.checkpoint={workdir}"]
            flags.append(f"--config.network={network}")
            results = [
                self._run(
                    f"configs/eval/{config}", workdir / folder / network, RESULT, flags, cores
                )
                for config, folder in EVALUATIONS
            ]
            both, retrieved = (result["per_fold"][0] for result in results)
            scores[network] = Scores(
                video=probes[when][f"{name} video"],
                audio=probes[when][f"{name} audio"],
                both=both["value"],
                retrieval=statistics.mean(retrieved[direction] for direction in _RETRIEVAL),
            )
        return Cell(scores, information(workdir))

    def _core_hours(self) -> float:
        files = self._output.rglob("core_seconds")
        return (
            sum(sum(map(float, file.read_text(encoding="utf-8").split())) for file in files) / 3600
        )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses and checks the arguments."""
    parser = command_parser("benchmarks.claim", __doc__)
    parser.add_argument("--table", choices=TABLES, default="claim")
    parser.add_argument("--output", type=Path, help="default: runs/claim or runs/study")
    parser.add_argument("--seeds", type=whole_numbers, default="0,1,2")
    parser.add_argument("--rows", help="default: all")
    parser.add_argument("--steps", type=int, help="default: 2,400 for claim, 1,200 for study")
    parser.add_argument("--jobs", type=int, default=2, help="cells that run in parallel")
    parser.add_argument(
        "--speech_dir", default="", help="folder of recordings in place of synthetic voices"
    )
    arguments = parser.parse_args(argv)
    known = TABLES[arguments.table]
    arguments.rows = arguments.rows.split(",") if arguments.rows else list(known)
    if unknown := [row for row in arguments.rows if row not in known]:
        parser.error(f"no row {unknown[0]!r}: give some of {', '.join(known)}.")
    if len(set(arguments.rows)) < len(arguments.rows):
        parser.error("--rows repeats a row: give each row once.")
    for flag in ("steps", "jobs"):
        value = getattr(arguments, flag)
        if value is not None and value < 1:
            parser.error(f"--{flag}={value}: give 1 or more.")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = _parse(argv)
    cells = [(row, seed) for seed in arguments.seeds for row in arguments.rows]
    output = arguments.output or Path("runs") / arguments.table
    steps = arguments.steps or STEPS[arguments.table]
    speech_dir = arguments.speech_dir
    config = demo.get_config()
    config.data.speech_dir = speech_dir
    try:
        check_same(output, {"table": arguments.table, "steps": steps, "speech_dir": speech_dir})
        spoken_digits.build(config_lib.resolve(config), str(output / "data"))
    except UserError as error:
        terminal.print_error(f"error: {error}")
        sys.exit(error.status)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Table(arguments.table, output, steps, speech_dir, arguments.jobs).make(cells)
    except UserError as error:
        terminal.print_error(f"error: {error}")
        sys.exit(error.status)
    except KeyboardInterrupt:
        terminal.print_error("Stopped; the same command resumes.")
        sys.exit(130)


if __name__ == "__main__":
    main()
