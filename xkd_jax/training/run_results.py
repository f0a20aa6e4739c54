"""Files of results: of a run's probes, and of evaluations of its checkpoints."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path, PurePath
from typing import Any

from data_pipelines.format import file_tree, storage
from xkd_jax.training import result_file
from xkd_jax.training.result_file import FILE, Result

PROBES = "results.json"  # of the probes, in the run's folder
_CHECKPOINTS = "checkpoints"


def evaluations(run: PurePath) -> list[Result]:
    """Returns the results of evaluations of a run's checkpoints.

    Args:
      run: folder or URL of the run, or of its checkpoints.

    Raises:
      UserError: a file can't be read, or is not a result.
    """
    return [result_file.read(file) for file in result_files(run)]


def result_files(run: PurePath) -> list[PurePath]:
    """Returns the result files of evaluations of a run's checkpoints, in order.

    They are searched in the run's folder, and in folders beside it whose names begin with its name,
    as in the command of the run's last line.

    Args:
      run: folder or URL of the run, or of its checkpoints.
    """
    run = run.parent if run.name == _CHECKPOINTS else run
    if not isinstance(run, Path):
        beside = storage.subfolders(str(run.parent))
        names = [name for name in beside if name.startswith(run.name)]
        urls = [file for name in names for file in files_below(run.parent / name, FILE)]
        return [file for file in urls if _source(file) in (str(run), str(run / _CHECKPOINTS))]
    run = Path(os.path.abspath(run))
    folders = [run, *sorted(run.parent.glob(f"{glob.escape(run.name)}?*/"))]
    files = [file for folder in folders for file in files_below(folder, FILE)]
    own = {os.path.realpath(path) for path in (run, run / _CHECKPOINTS)}
    return [file for file in files if (s := _source(file)) and os.path.realpath(s) in own]


def files_below(folder: PurePath, name: str) -> list[PurePath]:
    """Returns the files of a name in a folder or URL, at any depth, sorted."""
    if isinstance(folder, Path):
        return sorted(folder.rglob(name))
    paths = sorted(file_tree.walk(str(folder)))
    return [folder / path for path in paths if path.rpartition("/")[2] == name]


def _source(file: PurePath) -> str:
    """Returns the path that a result file names as the source of the weights; empty if none."""
    try:
        content: Any = json.loads(storage.read(str(file)))
        found = content["checkpoint"]
        return str(found["source"] if "source" in found else found["directory"])  # older files
    except (OSError, ValueError, KeyError, TypeError):
        return ""
