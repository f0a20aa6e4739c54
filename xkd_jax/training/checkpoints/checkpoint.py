"""Checkpoints of the training state.

The position in the data is the step: the pipeline can start at any step. Student, teacher and the
rest of the state are separate items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import PurePath
from typing import Protocol

import jax

from data_pipelines.read.shuffle import blocks
from xkd_jax.config.pretraining import Config
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.processes import print_on_main
from xkd_jax.training.checkpoints.item_checkpoints import ItemCheckpoints
from xkd_jax.training.checkpoints.run_record import RunRecord


class SecondTier(Protocol):
    """The methods of `local_checkpoints.LocalCheckpoints` that `Checkpoints` calls."""

    def exist(self) -> bool: ...

    def save(self, step: int, items: dict[str, Tree], record: RunRecord) -> None: ...

    def restore(
        self, like: dict[str, Tree], after: int, check: Callable[[RunRecord], None]
    ) -> tuple[RunRecord, dict[str, Tree]] | None: ...


class Checkpoints(ItemCheckpoints):
    """Saves and restores the state of a pretraining run; errors are those of `ItemCheckpoints`."""

    def __init__(
        self,
        directory: PurePath,
        config: Config,
        records: int,
        data_digest: str,
        check_lease: Callable[[], None] = lambda: None,
    ):
        """Opens the directory and creates it if necessary.

        Args:
          directory: folder or URL for these checkpoints only.
          config: the run's config.
          records: number of records of the run's data set.
          data_digest: digest of its content (`Dataset.digest`).
          check_lease: as in `ItemCheckpoints`.
        """
        parts = blocks(records, config.data.shuffle_window)
        now = RunRecord.of(dataclasses.asdict(config), records, data_digest, parts)
        super().__init__(directory, config.checkpoint, now, check_lease)
        self._local: SecondTier | None = None
        self._local_name = f"the hosts' folders {config.local_checkpoints.dir}"

    def keep_local(self, local: SecondTier) -> None:
        """Adds checkpoints on the hosts' own disks; `restore` reads the newest of both kinds."""
        self._local = local

    def exist(self) -> bool:
        """Whether there is a checkpoint to restore, intact or not; every process must call it."""
        return self.latest() is not None or (self._local is not None and self._local.exist())

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save a state and returns; the state may be donated afterwards."""
        self.save_items(step, _items(state))

    def save_locally(self, step: int, state: TrainState) -> None:
        """Starts to save a state on the hosts' own disks and returns, like `save`."""
        if self._local is not None:
            record = dataclasses.replace(self._now, step=step)
            self._local.save(step, _items(state), record)

    def restore_newer(self, like: dict[str, Tree], step: int) -> dict[str, Tree] | None:
        """Reads the newest checkpoint of the hosts' own disks, if it is of a later step."""
        if self._local is None:
            return None
        found = self._local.restore(
            like, step, lambda saved: saved.refuse_other(self._now, self._local_name)
        )
        if found is None:
            return None
        record, items = found
        self._continue(record)
        print_on_main(f"resume    from step {record.step}, {self._local_name}")
        return items

    def restore(self, like: TrainState) -> TrainState | None:
        """Returns the newest intact state, or None without a checkpoint.

        Args:
          like: the result of `like`.
        """
        items = self.restore_items(_items(like))
        if items is None:
            return None
        return TrainState(student=items["student"], teacher=items["teacher"], **items["rest"])


def _items(state: TrainState) -> dict[str, Tree]:
    rest = {"step": state.step, "centers": state.centers, "optimizer": state.optimizer}
    return {"student": state.student, "teacher": state.teacher, "rest": rest}


def like(shapes: TrainState, shardings: TrainState) -> TrainState:
    """Returns the `jax.ShapeDtypeStruct`s with shardings that `Checkpoints.restore` needs.

    Args:
      shapes: the state, with a shape and dtype at each leaf.
      shardings: the same tree, with a sharding at each leaf.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
