"""Reads the checkpoints and losses of a run, without the code that wrote them."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from xkd_jax.training.event_files import scalars

_ITEMS = ("student", "teacher", "rest")


def losses(workdir: Path) -> dict[int, float]:
    """Returns {step: loss} of the logged steps."""
    return {step: found["loss"] for step, found in scalars(workdir).items() if "loss" in found}


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns {path: array} of a checkpoint; empty if it does not exist."""
    found = {}
    handler = ocp.PyTreeCheckpointHandler()
    checkpoint = (workdir / "checkpoints" / str(step)).absolute()
    for folder in (checkpoint / item for item in _ITEMS if checkpoint.is_dir()):
        # As NumPy arrays, as this process may not have the devices of the run.
        kinds = jax.tree.map(
            lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree
        )
        tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            found[folder.name + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found
