"""Checkpoints of a classifier's training, from which it goes on as pretraining does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.evaluate.fitting import FitState
from xkd_jax.training.checkpoint import ItemCheckpoints
from xkd_jax.training.run_record import RunRecord

_ITEM = "state"


class _FitRecord(RunRecord):
    """A training of which nothing may be another when it goes on."""

    FIXED: ClassVar[tuple[str, ...]] = ("config", "records")


class FitCheckpoints(ItemCheckpoints):
    """The checkpoints of one training; errors are those of `ItemCheckpoints`."""

    def __init__(
        self,
        directory: Path,
        config: CheckpointConfig,
        made_from: dict[str, Any],
        records: int,
        data_digest: str,
        check_lease: Callable[[], None] = lambda: None,
    ):
        """Opens the directory, or makes it.

        Args:
          directory: for these checkpoints alone.
          config: how many are kept.
          made_from: what a training must share to go on from another's.
          records: that it trains on.
          data_digest: of the content of their data set (`Dataset.digest`).
          check_lease: as in `ItemCheckpoints`.
        """
        now = _FitRecord.of(made_from, records, data_digest)
        super().__init__(directory, config, now, check_lease)

    def save(self, step: int, state: FitState) -> None:
        """Starts saving and returns; the state may be donated afterwards."""
        self.save_items(step, {_ITEM: _tree(state)})

    def restore(self, like: FitState) -> FitState | None:
        """Returns the newest intact state, described by `like`; None: there is no checkpoint."""
        items = self.restore_items({_ITEM: _tree(like)})
        return None if items is None else FitState(**items[_ITEM])


def _tree(state: FitState) -> dict[str, Any]:
    return {"step": state.step, "trained": state.trained, "optimizer": state.optimizer}
