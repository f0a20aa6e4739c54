"""Records in the order of a run, as the first part of a Grain pipeline."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import grain

from data_pipelines.read.shuffle import Order


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An element of `InOrder`.

    Attributes:
      index: of the record in the data set.
      draw: number of earlier occurrences of this record: the epoch, or the number of its clip.
      record: the record.
    """

    index: int
    draw: int
    record: Any


class Records(Protocol):
    """Records by index."""

    def __getitem__(self, record: int, /) -> Any: ...


class InOrder(grain.MapDataset):
    """Records in an `Order`; replaces `grain.MapDataset.source` and `shuffle`."""

    def __init__(self, records: Records, order: Order):
        """Creates the data set of `Drawn` records."""
        super().__init__()
        self._records = records
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        """Returns the `Drawn` at a position."""
        if isinstance(index, slice):
            return self.slice(index)
        draw, record = self._order(index)
        return Drawn(record, draw, self._records[record])
