"""The paper's Tables 1 and 3 on spoken digits: what each part of the method adds, over seeds.

    python -m benchmarks.claim [--output=runs/claim] [--seeds=0,1,2] [--rows=xkd,...]
        [--speech_dir=DIR]

Pretrains each row with each seed as `configs/demo.py` says, on one data set, and scores it on
held-out writers and voices: linear probes of video and of audio, a linear SVM on both, and how
often the nearest across modalities is of the same word; student and teacher. Whatever is in the
output folder is not done again, so that the command can be stopped and given again. Prints the
table, mean and standard deviation over the seeds that are done, after each of them, and writes it
as `table.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
_RETRIEVAL = ("video_to_audio_same_class_recall_1", "audio_to_video_same_class_recall_1")


def run(config: str, workdir: Path, result: str, flags: Sequence[str]) -> dict[str, Any]:
    """Returns the result file of one run of main.py, made now if it isn't there yet.

    Raises:
      SystemExit: the run failed; it has said why.
    """
    if not (workdir / result).exists():
        command = [sys.executable, "main.py", f"--config={config}", f"--workdir={workdir}", *flags]
        print("$", " ".join(command), flush=True)
        since = time.monotonic()
        if status := subprocess.run(command, check=False).returncode:
            raise SystemExit(status)
        with (workdir / "seconds").open("a") as file:
            file.write(f"{time.monotonic() - since:.0f}\n")
    return json.loads((workdir / result).read_text())


def scores(row: str, seed: int, output: Path, speech_dir: str) -> dict[str, dict[str, float]]:
    """Pretrains and evaluates one row with one seed.

    Returns:
      {network: {column: percent}} of the row's networks, and of the untrained one.
    """
    variant, *flags = ROWS[row]
    workdir = output / f"{row}-{seed}"
    data = f"--config.data.dir={output / 'data'}"
    flags += [data, f"--config.seed={seed}", f"--config.data.speech_dir={speech_dir}"]
    pretrained = run(f"configs/demo.py:{variant}", workdir, "results.json", flags)
    probes = pretrained["linear_probe_top1"]
    found: dict[str, dict[str, float]] = {}
    for network in (*NETWORKS, UNTRAINED):
        when, name = ("before", "student") if network == UNTRAINED else ("after", network)
        checkpoint = [data, f"--config.checkpoint={workdir}", f"--config.network={network}"]
        results = [
            run(f"configs/eval/{config}", workdir / folder / network, "result.json", checkpoint)
            for config, folder in (("spoken_digits.py:both", "both"), ("retrieval.py", "retrieval"))
        ]
        both, retrieved = (result["per_fold"][0] for result in results)
        found[network] = {
            "video": probes[when][f"{name} video"],
            "audio": probes[when][f"{name} audio"],
            "both": both["value"],
            "retrieval": statistics.mean(retrieved[direction] for direction in _RETRIEVAL),
        }
    return found


def table(done: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    """Returns the table in Markdown: mean and standard deviation over the seeds of each row."""
    lines = [
        f"| pretrained with | network | seeds | {' | '.join(COLUMNS)} |",
        f"|---|---|---|{'---|' * len(COLUMNS)}",
    ]
    # The same networks, whatever they are trained with: those of the first row stand for all.
    groups = [(UNTRAINED, UNTRAINED, next(iter(done.values())))]
    groups += [(row, network, seeds) for row, seeds in done.items() for network in NETWORKS]
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
    parser.add_argument("--speech_dir", default="", help="recordings in place of espeak's voices")
    arguments = parser.parse_args(argv)
    rows, output = arguments.rows.split(","), arguments.output
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"no row {unknown[0]!r}: give some of {', '.join(ROWS)}.")
    done: dict[str, list[dict[str, dict[str, float]]]] = {}
    for seed in map(int, arguments.seeds.split(",")):
        for row in rows:
            done.setdefault(row, []).append(scores(row, seed, output, arguments.speech_dir))
            (output / "table.md").write_text(table(done) + "\n")
            print(table(done), flush=True)


if __name__ == "__main__":
    main()
