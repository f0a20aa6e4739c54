"""Runs the demo (`configs/demo.py`) by main.py; reports speed, time and nearest-neighbor accuracy.

python -m benchmarks.accelerator.digits
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.accelerator import reporting
from data_pipelines import terminal
from data_pipelines.command_parser import command_parser

_STEP = re.compile(r"step +(\d+)/\d+ .* ([\d.e+]+) clips/s +data wait (\d+)%")
_NEIGHBORS = re.compile(r"(student|teacher) (video|audio) ([\d.]+) %")
_TINY = (
    "--config.model.size=24/1/2:16/1/2", "--config.batch_size=8", "--config.log_every=2",
    "--config.data.train_clips=40", "--config.data.records=40", "--config.data.test_clips=20",
    "--config.probe.k=3", "--config.probe.train_records=40",
)  # fmt: skip


def main() -> None:
    """Runs the demo and reports the numbers that it prints."""
    parser = command_parser("benchmarks.accelerator.digits", __doc__)
    parser.add_argument("--rehearse", action="store_true", help="a tiny model and few clips")
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    reporting.wait_for_start(args.wait)
    steps = 4 if args.rehearse else 400
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-u", "main.py", "--config=configs/demo.py", f"--workdir={folder}",
            f"--config.max_steps={steps}", f"--config.probe.knn_every={steps}",
            "--config.checkpoint.every_steps=0", "--config.report=False",
            *(_TINY if args.rehearse else ()),
        ]  # fmt: skip
        follow(command, steps)
        results = Path(folder) / "results.json"
        if results.exists():
            found = json.loads(results.read_text(encoding="utf-8"))
            reporting.report("digits probe", steps=steps, **found)


def follow(command: list[str], steps: int) -> None:
    """Runs the command, printing its lines, and reports speed and scores.

    Raises:
      RuntimeError: it failed.
    """
    since = time.perf_counter()
    rates: list[float] = []
    waits: list[float] = []
    neighbors: dict[str, float] = {}
    moments: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            terminal.print_text(line.rstrip("\n"))
            elapsed = round(time.perf_counter() - since, 1)
            if found := _STEP.search(line):
                moments.setdefault("first_line_seconds", elapsed)
                moments["last_step_seconds"] = elapsed
                rates.append(float(found[2]))
                waits.append(float(found[3]) / 100)
            for role, modality, score in _NEIGHBORS.findall(line):
                neighbors[f"{role} {modality}"] = float(score)
            if line.startswith("made "):
                moments["data_made_seconds"] = elapsed
    if process.returncode:
        raise RuntimeError(f"the demo ended with status {process.returncode}")
    later = rates[1:] or rates  # the first line includes the compilation
    reporting.report(
        "digits", steps=steps, clips_per_second=round(statistics.median(later), 1),
        data_wait_share=statistics.median(waits[1:] or waits), knn=neighbors, **moments,
        seconds=round(time.perf_counter() - since, 1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
