"""Checkpoints of a classifier's training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any, ClassVar

from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.evaluate.fitting import FitState
from xkd_jax.training.checkpoints.item_checkpoints import ItemCheckpoints
from xkd_jax.training.checkpoints.run_record import RunRecord

_ITEM = "state"


class _FitRecord(RunRecord):
    """The record of a classifier's training; a resumed one can't change any setting."""

    FIXED: ClassVar[tuple[str, ...]] = ("config", "records")


class FitCheckpoints(ItemCheckpoints):
    """Saves and restores the state of one training; errors are those of `ItemCheckpoints`."""

    def __init__(
        self,
        directory: PurePath,
        config: CheckpointConfig,
        made_from: dict[str, Any],
        records: int,
        data_digest: str,
        check_lease: Callable[[], None] = lambda: None,
    ):
        """Opens the directory and creates it if necessary.

        Args:
          directory: folder for these checkpoints only.
          config: which checkpoints are kept.
          made_from: settings that a resumed training must have, of JSON types.
          records: number of training records.
          data_digest: digest of their data set's content (`Dataset.digest`).
          check_lease: as in `ItemCheckpoints`.
        """
        now = _FitRecord.of(made_from, records, data_digest)
        super().__init__(directory, config, now, check_lease)

    def save(self, step: int, state: FitState) -> None:
        """Starts to save a state and returns; the state may be donated afterwards."""
        self.save_items(step, {_ITEM: _tree(state)})

    def restore(self, like: FitState) -> FitState | None:
        """Returns the newest intact state, or None without a checkpoint.

        Args:
          like: shapes, dtypes and shardings of the state (`Fit.like`).
        """
        items = self.restore_items({_ITEM: _tree(like)})
        return None if items is None else FitState(**items[_ITEM])


def _tree(state: FitState) -> dict[str, Any]:
    return {"step": state.step, "trained": state.trained, "optimizer": state.optimizer}
