"""Times the base training step on this machine's CPU beside that of the authors' code, in pairs.

    python -m benchmarks.cpu_step --code=FOLDER --python=PYTHON [--pairs=5] [--dtype=float32]

FOLDER is `codes/train` of the authors' repository, and PYTHON an interpreter with the packages that
their code needs (torch, torchvision, timm, torchsummary, einops, yaml). A pair is one process of
each, in turn: a batch of four random clips, the local teacher view, no augmentation, as in
`accelerator.authors`. Prints milliseconds per step, CPU seconds and peak memory of each process,
and the medians of the pairs' ratios. Other work on the machine makes the times meaningless.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.accelerator import reporting, step_times
from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.terminal import count

CLIPS = 4


def ours(dtype: str, tiny: bool) -> None:
    """Reports the time of our step."""
    words = "views" if dtype == "float32" else f"views:{dtype}"
    variant = step_times.Variant.parse(f"{CLIPS}:auto:local:{words}")
    compiled = step_times.compile_variant(variant, tiny)
    state = compiled.run.initialize()
    batch = step_times.random_inputs(compiled)
    losses: list[jax.Array] = []

    def step() -> None:
        nonlocal state
        state, metrics = compiled.step(state, batch)
        losses.append(metrics["loss"])

    times = reporting.block_times(
        step, lambda: jax.block_until_ready((state, losses)), blocks=2 if tiny else 5, seconds=0.0
    )
    reporting.report(
        "ours", milliseconds=round(1e3 * statistics.median(times), 2),
        compile_seconds=round(compiled.seconds, 1), loss=float(losses[-1]),
    )  # fmt: skip


def run(name: str, command: Sequence[str]) -> dict[str, Any]:
    """Runs one process, and returns its result with its CPU seconds and peak GiB.

    Raises:
      SystemExit: it failed; with the end of its output.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    results = [
        json.loads(line.removeprefix(reporting.RESULT))
        for line in text.splitlines()
        if line.startswith(reporting.RESULT)
    ]
    found = [result for result in results if result["name"] == name and "error" not in result]
    if process.returncode or not found:
        raise SystemExit(f"error: {shlex.join(command)} failed:\n{text[-2000:]}")
    return {
        **found[0], "cpu_seconds": round(used.ru_utime), "peak_gib": used.ru_maxrss / 2**20
    }  # fmt: skip


def main() -> None:
    """Runs the pairs."""
    parser = command_parser("benchmarks.cpu_step", __doc__)
    parser.add_argument("--code", default="", help="codes/train of the authors' repository")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with PyTorch")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rehearse", action="store_true", help="tiny models")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        ours(args.dtype, args.rehearse)
        return

    common = [f"--dtype={args.dtype}", *(["--rehearse"] if args.rehearse else [])]
    commands = {
        "ours": [sys.executable, "-m", "benchmarks.cpu_step", "--ours", *common],
        "authors": [
            args.python, "-m", "benchmarks.accelerator.authors", f"--code={args.code}",
            f"--clips={CLIPS}", *common,
        ],
    }  # fmt: skip
    times: list[float] = []
    peaks: list[float] = []
    for pair in range(1, args.pairs + 1):
        found = {name: run(name, command) for name, command in commands.items()}
        for name, result in found.items():
            terminal.print_text(
                f"pair {pair}  {name:8} {result['milliseconds']:8.0f} ms a step, peak"
                f" {result['peak_gib']:5.2f} GiB, {result['cpu_seconds']:5} CPU s"
            )
        times.append(found["authors"]["milliseconds"] / found["ours"]["milliseconds"])
        peaks.append(found["ours"]["peak_gib"] / found["authors"]["peak_gib"])
    terminal.print_result(
        f"ours is {statistics.median(times):.2f} times as fast, with"
        f" {statistics.median(peaks):.2f} of the memory (medians of {count(args.pairs, 'pair')})"
    )


if __name__ == "__main__":
    main()
