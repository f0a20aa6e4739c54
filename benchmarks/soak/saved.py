"""What a run has saved, read back without the code that wrote it."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.event_files import scalars

_ITEMS = ("student", "teacher", "rest")


def losses(workdir: Path) -> dict[int, float]:
    """Returns the loss of each step that is on record."""
    return {step: found["loss"] for step, found in scalars(workdir).items() if "loss" in found}


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by their paths; of one that isn't there, none."""
    found = {}
    handler = ocp.PyTreeCheckpointHandler()
    checkpoint = (workdir / "checkpoints" / str(step)).absolute()
    for folder in (checkpoint / item for item in _ITEMS if checkpoint.is_dir()):
        # As NumPy's arrays, since this process may not have the devices that the run had.
        kinds = jax.tree.map(
            lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(folder).tree
        )
        tree = handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            found[folder.name + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found
