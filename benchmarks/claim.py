"""The paper's Tables 1 and 3 on spoken digits: what each part of the method adds, over seeds.

    python -m benchmarks.claim [--output=runs/claim] [--seeds=0,1,2] [--rows=xkd,...]
        [--steps=2400] [--jobs=2] [--speech_dir=DIR]

Pretrains each row with each seed as `configs/demo.py` says, for twice the demo's steps, on one data
set, and scores it on held-out writers and voices: linear probes of video and of audio, a linear SVM
on both, and how often the nearest across modalities is of the same word; student and teacher.
Several cells of the table are made side by side, each with its share of the cores: small networks
gain little from a second one. Whatever is in the output folder is not done again, so that the
command can be stopped and given again. After each cell it prints the table, mean and standard
deviation over the seeds that are done, and the core hours so far, and writes it as `table.md`.
Linux only, where a process can be given some of the cores.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from configs import demo
from data_pipelines import spoken_digits
from xkd_jax import config as config_lib
from xkd_jax.errors import UserError

# {row: its variant of configs/demo.py and other flags}
ROWS = {
    "reconstruction_video": ("reconstruction_video",),
    "reconstruction": ("reconstruction",),
    "distillation": ("distillation",),
    "alignment": ("alignment",),
    "no_refinement": ("no_refinement",),
    "xkd": ("xkd",),
    "mas": ("mas",),
    "mats": ("mats",),
    "local_teacher_view": ("xkd", "--config.loss.teacher_view=local"),
}
UNTRAINED = "untrained"
NETWORKS = ("student", "teacher")
COLUMNS = ("video", "audio", "both", "retrieval")
RESULT = "result.json"
# {config of an evaluation: its folder in the run's}
EVALUATIONS = (("spoken_digits.py:both", "both"), ("retrieval.py", "retrieval"))
_RETRIEVAL = ("video_to_audio_same_class_recall_1", "audio_to_video_same_class_recall_1")


def run(
    config: str, workdir: Path, result: str, flags: Sequence[str], cores: Sequence[int]
) -> dict[str, Any]:
    """Returns the result file of one run of main.py, made now if it isn't there yet.

    Raises:
      UserError: the run failed; its log says why.
    """
    if not (workdir / result).exists():
        workdir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "main.py", f"--config={config}", f"--workdir={workdir}", *flags]
        print("$", " ".join(command), flush=True)
        since = time.monotonic()
        with (workdir / "log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        os.sched_setaffinity(process.pid, cores)  # long before it counts its cores
        if status := process.wait():
            raise UserError(f"main.py ended with {status}: see {workdir / 'log'}.")
        with (workdir / "core_seconds").open("a") as file:
            file.write(f"{(time.monotonic() - since) * len(cores):.0f}\n")
    return json.loads((workdir / result).read_text())


class Table:
    """The scores of each row with each seed, made by several threads."""

    def __init__(self, output: Path, steps: int, speech_dir: str, jobs: int):
        self._output = output
        self._data = [
            f"--config.data.dir={output / 'data'}", f"--config.data.speech_dir={speech_dir}",
        ]  # fmt: skip
        self._steps = steps
        # Shares of this machine's cores, each for one cell at a time.
        self._shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        cores = sorted(os.sched_getaffinity(0))
        for job in range(jobs):
            self._shares.put(cores[job::jobs] or cores)
        self._done: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
        self._lock = threading.Lock()

    def make(self, row: str, seed: int) -> None:
        """Pretrains and evaluates one row with one seed, and prints the table with it.

        Raises:
          UserError: a run failed.
        """
        share = self._shares.get()
        try:
            found = self._scores(row, seed, share)
        finally:
            self._shares.put(share)
        with self._lock:
            self._done[row, seed] = found
            text = table(self._done) + f"\n\n{self._core_hours():.1f} core hours.\n"
            (self._output / "table.md").write_text(text)
            print(text, flush=True)

    def _scores(self, row: str, seed: int, cores: list[int]) -> dict[str, dict[str, float]]:
        """Returns {network: {column: percent}} of the row's networks, and of the untrained one."""
        variant, *flags = ROWS[row]
        workdir = self._output / f"{row}-{seed}"
        flags += [*self._data, f"--config.seed={seed}", f"--config.max_steps={self._steps}"]
        pretrained = run(f"configs/demo.py:{variant}", workdir, "results.json", flags, cores)
        probes = pretrained["linear_probe_top1"]
        found: dict[str, dict[str, float]] = {}
        for network in (*NETWORKS, UNTRAINED):
            when, name = ("before", "student") if network == UNTRAINED else ("after", network)
            flags = [*self._data[:1], f"--config.checkpoint={workdir}"]
            flags.append(f"--config.network={network}")
            results = [
                run(f"configs/eval/{config}", workdir / folder / network, RESULT, flags, cores)
                for config, folder in EVALUATIONS
            ]
            both, retrieved = (result["per_fold"][0] for result in results)
            found[network] = {
                "video": probes[when][f"{name} video"],
                "audio": probes[when][f"{name} audio"],
                "both": both["value"],
                "retrieval": statistics.mean(retrieved[direction] for direction in _RETRIEVAL),
            }
        return found

    def _core_hours(self) -> float:
        files = self._output.rglob("core_seconds")
        return sum(sum(map(float, file.read_text().split())) for file in files) / 3600


def table(done: dict[tuple[str, int], dict[str, dict[str, float]]]) -> str:
    """Returns the table in Markdown: mean and standard deviation over the seeds of each row."""
    lines = [
        f"| pretrained with | network | seeds | {' | '.join(COLUMNS)} |",
        f"|---|---|---|{'---|' * len(COLUMNS)}",
    ]
    by_row: dict[str, list[dict[str, dict[str, float]]]] = collections.defaultdict(list)
    untrained: dict[int, dict[str, dict[str, float]]] = {}
    for (row, seed), found in done.items():
        by_row[row].append(found)
        if ROWS[row][0] not in ("mas", "mats"):
            untrained[seed] = found  # the same network in every such row
    groups = [(UNTRAINED, UNTRAINED, list(untrained.values()))] if untrained else []
    groups += [(row, network, by_row[row]) for row in ROWS if row in by_row for network in NETWORKS]
    for row, network, seeds in groups:
        cells = [_spread([seed[network][column] for seed in seeds]) for column in COLUMNS]
        lines.append(f"| {row} | {network} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claim", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("runs/claim"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--jobs", type=int, default=2, help="cells made side by side")
    parser.add_argument("--speech_dir", default="", help="recordings in place of espeak's voices")
    arguments = parser.parse_args(argv)
    rows, output = arguments.rows.split(","), arguments.output
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"no row {unknown[0]!r}: give some of {', '.join(ROWS)}.")
    cells = [(row, seed) for seed in map(int, arguments.seeds.split(",")) for row in rows]
    demo_config = demo.get_config()
    demo_config.data.speech_dir = arguments.speech_dir
    spoken_digits.build(config_lib.resolve(demo_config), str(output / "data"))
    made = Table(output, arguments.steps, arguments.speech_dir, arguments.jobs)
    with futures.ThreadPoolExecutor(arguments.jobs) as pool:
        started = [pool.submit(made.make, *cell) for cell in cells]
        try:
            for future in futures.as_completed(started):
                future.result()
        except UserError as error:
            pool.shutdown(cancel_futures=True)
            raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
