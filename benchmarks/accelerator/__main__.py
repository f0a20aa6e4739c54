"""Measures a checkout on an accelerator: parity, speed against the authors' code, data, the demo.

    python -m benchmarks.accelerator --output=RESULT.json [--golden=FOLDER] [--authors=CODE]
        [--shards=FOLDER]
    python -m benchmarks.accelerator --table=RESULT.json     # the tables of docs/performance.md

Each section is a process with a time limit. Its results are printed and written to the output at
once. A section that fails or is stopped does not affect the others. A section without the folder
that it needs is left out and listed. `--rehearse` runs all sections with tiny models, on a CPU.
Sections: goldens, step, authors, more_steps, loader, demo (--sections=..., in this order).
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import result_file
from benchmarks.accelerator import hardware_tables
from benchmarks.accelerator.section import Process, Section
from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError

NAMES = ("goldens", "step", "authors", "more_steps", "loader", "demo")
# Variants of the step (`step_times`), most important first; those of a wave are compiled in
# parallel.
FIRST_WAVES = ("64:auto:global:trace,64:auto:local:views,128:auto:global,128:auto:local:views",)
LATER_WAVES = ("64:cudnn:global,64:auto:global:timed,32:auto:global,16:auto:global",)
TINY_WAVES = ("2:auto:global:trace", "2:auto:local:views")
_QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit"


def sections(args: argparse.Namespace, logs: Path) -> list[Section]:
    """Returns the requested sections, in order."""
    keep = f"--keep={logs}"
    module = "benchmarks.accelerator."
    tiny = ("--rehearse",) if args.rehearse else ()
    waves = TINY_WAVES if args.rehearse else tuple(args.wave or FIRST_WAVES)
    later = TINY_WAVES[:1] if args.rehearse else tuple(args.more_waves or LATER_WAVES)
    fed = ("--variant=2:auto:global", "--workers=0") if args.rehearse else ()
    small = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.1"}
    large = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.8"}
    steps = ("-m", module + "step_times")
    made = {
        "goldens": Section(
            "goldens", ("-m", module + "goldens", f"--folder={args.golden}", *tiny), 100, small,
            left_out="" if args.golden else "give --golden=FOLDER of golden cases",
        ),
        "step": Section(
            "step", (*steps, *(f"--wave={w}" for w in waves), keep, *tiny),
            200,
            large, prepares_beside="goldens",
        ),
        "authors": Section(
            "authors",
            ("-m", module + "authors", f"--code={args.authors}", "--clips=64,16,32,128", *tiny),
            90, prepares_beside="goldens",
            left_out=_authors_lack(args.authors),
        ),
        "more_steps": Section(
            "more_steps", (*steps, *(f"--wave={w}" for w in later), keep, *tiny),
            200, large,
        ),
        "loader": Section(
            "loader",
            ("-m", module + "feeding", f"--shards={args.shards}", *fed, *tiny),
            120, large,
            left_out="" if args.shards else "give --shards=FOLDER of shards",
        ),
        "demo": Section("demo", ("-m", module + "digits", *tiny), 240),
    }  # fmt: skip
    return [made[name] for name in args.sections]


def run(chosen: Sequence[Section], output: Path, logs: Path, seconds: float) -> dict[str, Any]:
    """Runs the sections in turn and writes their results to the output.

    Returns:
      The results: `machine`, `began`, and `sections` by name, each with its `status` and `results`.
    """
    began, deadline = time.monotonic(), time.monotonic() + seconds
    record: dict[str, Any] = {
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "sections": {},
    }
    started: dict[str, Process] = {}

    def log_of(section: Section) -> Path:
        return logs / f"{section.name}.log"

    def say(text: str) -> None:
        terminal.print_text(f"{time.monotonic() - began:6.1f} s  {text}")
        sys.stdout.flush()

    say(json.dumps(record["machine"]))
    try:
        for section in chosen:
            found: dict[str, Any] = {"status": "running", "results": []}
            record["sections"][section.name] = found
            if section.left_out:
                found.update(status="left out", reason=section.left_out)
            else:
                if section.name not in started:
                    started[section.name] = Process(section, log_of(section))
                process = started[section.name]
                for other in chosen:
                    if other.prepares_beside == section.name and not other.left_out:
                        started[other.name] = Process(other, log_of(other))

                def keep(result: dict[str, Any], found: dict[str, Any] = found) -> None:
                    found["results"].append(result)
                    say(json.dumps({k: v for k, v in result.items() if not isinstance(v, list)}))
                    result_file.write(output, record)

                found.update(process.collect(keep, deadline))
            reason = f": {found['reason']}" if "reason" in found else ""
            say(f"{section.name} {found['status']}{reason}")
            result_file.write(output, record)
    finally:
        for process in started.values():
            process.stop()
    return record


def machine() -> dict[str, Any]:
    """Returns the accelerator, the number of cores and the versions of libraries."""
    from data_pipelines.worker_processes import usable_cores
    from xkd_jax.training.checkpoints.versions import versions

    found: dict[str, Any] = {"cores": usable_cores(), "versions": versions()}
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        found["gpu"] = (answer.stdout or answer.stderr).strip()
    return found


def _authors_lack(code: str) -> str:
    if not code:
        return "give --authors=FOLDER, codes/train of the authors' repository"
    missing = [
        name
        for name in ("torch", "timm", "torchsummary", "einops", "yaml")
        if importlib.util.find_spec(name) is None
    ]
    return f"it needs {', '.join(missing)}, which is not installed" if missing else ""


def _names(text: str) -> list[str]:
    asked = text.split(",")
    if wrong := [name for name in asked if name not in NAMES]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r}: give names of {', '.join(NAMES)}.")
    return [name for name in NAMES if name in asked]


def main() -> int:
    """Runs the command; the exit status is 1 if a section failed."""
    parser = command_parser("benchmarks.accelerator", __doc__)
    add = parser.add_argument
    add("--output", default="accelerator.json", help="file for the results")
    add("--logs", default="", help="folder of logs, traces and programs (default: the output's)")
    add("--table", default="", metavar="FILE", help="print the tables of results instead")
    add("--sections", type=_names, default=list(NAMES), help="names by commas")
    add("--seconds", type=float, default=480, help="limit of all sections together")
    add("--golden", default="", help="folder of golden cases")
    add("--authors", default="", help="codes/train of the authors' repository")
    add("--shards", default="", help="folder of shards with a train split")
    add("--wave", action="append", help="variants of the section step, by commas; may be repeated")
    add("--more_waves", action="append", help="the same of the section more_steps")
    add("--rehearse", action="store_true", help="tiny models, on any device")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # to end the sections too
    try:
        if args.table:
            terminal.print_result(hardware_tables.tables(hardware_tables.load(args.table)))
            return 0
        output = Path(args.output)
        logs = Path(args.logs) if args.logs else output.parent
        logs.mkdir(parents=True, exist_ok=True)
        record = run(sections(args, logs), output, logs, args.seconds)
    except UserError as error:
        terminal.print_error(f"error: {error}")
        return error.status
    failed = [n for n, s in record["sections"].items() if s["status"] not in ("done", "left out")]
    return 1 if failed else 0


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
