"""Files of results: of a run's probes, and of evaluations of its checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = "result.json"  # of an evaluation, in its folder
PROBES = "results.json"  # of the probes, in the run's folder


def result_files(run: Path) -> list[Path]:
    """Returns the result files of evaluations of a run's checkpoints, in order.

    They are searched in folders beside the run's whose names begin with its name, where the run's
    last line puts them, and in the run's folder.

    Args:
      run: folder of the run.
    """
    run = Path(os.path.abspath(run))
    folders = [run, *sorted(run.parent.glob(f"{_literal(run.name)}?*/"))]
    files = [file for folder in folders for file in sorted(folder.rglob(FILE))]
    checkpoints = os.path.realpath(run / "checkpoints")
    return [f for f in files if os.path.realpath(_checkpoint(f)) == checkpoints]


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _checkpoint(file: Path) -> str:
    """Returns the folder of checkpoints that a result file names; empty if it is not a result."""
    try:
        content: Any = json.loads(file.read_bytes())
        return str(content["checkpoint"]["directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
