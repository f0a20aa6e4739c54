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
    own = {os.path.realpath(path) for path in (run, run / "checkpoints")}
    return [file for file in files if (s := _source(file)) and os.path.realpath(s) in own]


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _source(file: Path) -> str:
    """Returns the path that a result file names as the source of the weights; empty if none."""
    try:
        content: Any = json.loads(file.read_bytes())
        found = content["checkpoint"]
        return str(found["source"] if "source" in found else found["directory"])  # older files
    except (OSError, ValueError, KeyError, TypeError):
        return ""
