"""Reads the checkpoints and losses of a run, without the code that wrote them."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from data_pipelines.format import storage
from xkd_jax.training.checkpoints.saved_checkpoint import saved_folder
from xkd_jax.training.logs import metrics_file
from xkd_jax.training.logs.event_files import scalars

_ITEMS = ("student", "teacher", "rest")


def losses(workdir: PurePath) -> dict[int, float]:
    """Returns {step: loss} of the logged steps."""
    return {step: found["loss"] for step, found in scalars(workdir).items() if "loss" in found}


def lines(workdir: PurePath) -> list[int]:
    """Returns the steps of the lines of `metrics.jsonl`, in their order."""
    content = storage.read(str(workdir / metrics_file.FILE))
    return [json.loads(line)["step"] for line in content.splitlines()]


def arrays(workdir: PurePath, step: int) -> dict[str, np.ndarray]:
    """Returns {path: array} of a checkpoint; empty if it does not exist."""
    found = {}
    handler = ocp.PyTreeCheckpointHandler()
    checkpoint = saved_folder(workdir / "checkpoints", step)
    if isinstance(checkpoint, Path):
        checkpoint = checkpoint.absolute()
    items = _ITEMS if storage.is_folder(str(checkpoint)) else ()
    for folder in (epath.Path(str(checkpoint)) / item for item in items):
        # As NumPy arrays, as this process may not have the devices of the run.
        kinds = jax.tree.map(
            lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree
        )
        tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            found[folder.name + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found
