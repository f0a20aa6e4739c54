"""Checkpoints of a classifier's training, from which it goes on as pretraining does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from xkd_jax.checkpoint import DamagedError, read_checked, read_record
from xkd_jax.config import CheckpointConfig
from xkd_jax.digest import digests
from xkd_jax.errors import UserError
from xkd_jax.evaluate.fitting import FitState
from xkd_jax.run_record import RunRecord

_ITEM = "state"


class FitCheckpoints:
    """The checkpoints in one folder, all made from the same things."""

    def __init__(
        self, directory: Path, config: CheckpointConfig, made_from: dict[str, Any], records: int
    ):
        """Opens the folder.

        Args:
          directory: for these checkpoints alone.
          config: how often and how many.
          made_from: what a training must share to go on from another's.
          records: that it trains on.
        """
        self.directory = directory.absolute()
        self._made_from = json.loads(json.dumps(made_from))
        self._records = records
        self._manager = ocp.CheckpointManager(
            self.directory,
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
        items = _items(state)
        record = RunRecord(step, self._made_from, self._records, {_ITEM: digests(items)})
        self._manager.save(
            step,
            args=ocp.args.Composite(
                run=ocp.args.JsonSave(record.to_json()),
                **{_ITEM: ocp.args.StandardSave(items)},
            ),
        )

    def restore(self, like: FitState) -> FitState | None:
        """The newest state; None: there is no checkpoint.

        Raises:
          UserError: the folder's checkpoints were made from something else, or the newest is
            damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        folder = self.directory / str(step)
        try:
            record = read_record(folder)
            self._refuse_other(record)
            return FitState(**read_checked(folder, record, _ITEM, _items(like)))
        except DamagedError as damage:
            raise UserError(
                f"The checkpoint {folder} is damaged ({damage}): remove it, and the training goes"
                " on from the one before."
            ) from damage

    def _refuse_other(self, record: RunRecord) -> None:
        held = record.config | {"records": record.records}
        now = self._made_from | {"records": self._records}
        for key in sorted(held.keys() | now.keys()):
            if held.get(key) != now.get(key):
                raise UserError(
                    f"{self.directory} holds a training with another {key}: give that, or another"
                    " --workdir."
                )


def _items(state: FitState) -> dict[str, Any]:
    return {"step": state.step, "trained": state.trained, "optimizer": state.optimizer}
