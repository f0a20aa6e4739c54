"""Metrics of the protocols on one fold, in percent."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldScores:
    """Metrics of every protocol.

    Attributes:
      value: the benchmark's metric.
      test_records: number of test records.
    """

    value: float
    test_records: int

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that are not None, under their names in `result.json`."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScores(FoldScores):
    """Metrics of a classifier; `value` is top-1, or mAP with several labels per record.

    Attributes:
      train_records: number of training records.
      top5: top-5 accuracy; None with several labels per record, or five classes or fewer.
    """

    train_records: int
    top5: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SvmScores(ClassScores):
    """Metrics of linear SVMs; `value` is top-1 with the cost that is best on the test records.

    Attributes:
      cost: that cost.
      top1_by_cost: {text of a cost: top-1}.
      held_out_cost: the cost that is best on held-out training records; None if none are held out.
      top1_held_out_cost: top-1 on the test records with that cost.
    """

    cost: float
    top1_by_cost: dict[str, float]
    held_out_cost: float | None = None
    top1_held_out_cost: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalScores(FoldScores):
    """Recalls of cross-modal retrieval; `value` is the mean of recall at 1.

    Attributes:
      recalls: {`FROM_to_TO_recall_K`, `FROM_to_TO_same_class_recall_K`: recall}.
    """

    recalls: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As `FoldScores.to_json`, with each recall as a field."""
        found = super().to_json()
        return found | found.pop("recalls")
