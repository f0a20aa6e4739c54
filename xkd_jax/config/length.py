"""The length of a run, which follows from its config and the number of records."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Length:
    """Length of a run, in steps.

    steps: of the whole run.
    steps_per_epoch: whole batches of an epoch, at least 1.
    """

    steps: int
    steps_per_epoch: int

    @classmethod
    def of(
        cls, records: int, batch_size: int, *, epochs: float, max_steps: int, drop_last: bool
    ) -> Length:
        """Returns the length of a run on a data set of `records` records.

        The next epoch completes the last batch of an epoch; with `drop_last` it is dropped.

        Args:
          records: of the training split.
          batch_size: records of a batch.
          epochs: passes over the records.
          max_steps: number of steps in place of `epochs`; 0: none is given.
          drop_last: `data.drop_last`.

        Raises:
          UserError: with `drop_last`, there are fewer records than a batch has.
        """
        from data_pipelines.read.shuffle import epoch_records  # --help does not need NumPy

        used = epoch_records(records, batch_size, drop_last)
        steps = max_steps or round(epochs * used / batch_size)
        return cls(steps=max(steps, 1), steps_per_epoch=max(records // batch_size, 1))
