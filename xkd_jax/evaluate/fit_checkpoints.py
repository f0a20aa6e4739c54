"""Checkpoints of a classifier's training, from which it goes on as pretraining does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from xkd_jax.config import CheckpointConfig
from xkd_jax.errors import UserError
from xkd_jax.evaluate.fitting import FitState


class FitCheckpoints:
    """The checkpoints in one folder, all made from the same things."""

    def __init__(self, directory: Path, config: CheckpointConfig, made_from: dict[str, Any]):
        """Opens the folder; `made_from` is what a training must share to go on from another's."""
        self.directory = directory
        self._made_from = json.loads(json.dumps(made_from))
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.keep_last or None, keep_period=config.keep_every or None
            ),
        )

    def close(self) -> None:
        """Returns when every save is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: FitState) -> None:
        """Starts saving and returns; the state may be donated afterwards."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_items(state)),
                made_from=ocp.args.JsonSave(self._made_from),
            ),
        )

    def restore(self, like: FitState) -> FitState | None:
        """The newest state; None: there is no checkpoint.

        Raises:
          UserError: the folder's checkpoints were made from something else.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = ocp.args.Composite(made_from=ocp.args.JsonRestore())
        held = self._manager.restore(step, args=args)["made_from"]
        for key in sorted(self._made_from.keys() | held.keys()):
            if held.get(key) != self._made_from.get(key):
                raise UserError(
                    f"{self.directory} holds a training with another {key}: give that, or another"
                    " --workdir."
                )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_items(like)))
        return FitState(**self._manager.restore(step, args=args)["state"])


def _items(state: FitState) -> dict[str, Any]:
    return {"step": state.step, "trained": state.trained, "optimizer": state.optimizer}
