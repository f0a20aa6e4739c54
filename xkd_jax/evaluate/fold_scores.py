"""What the protocols find on one fold; all scores are in percent."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldScores:
    """Scores of every protocol.

    Attributes:
      value: the score that the benchmark is known by.
      test_records: number of records that were scored.
    """

    value: float
    test_records: int

    def to_json(self) -> dict[str, Any]:
        """The fields that have a value, by their names in `result.json`."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassScores(FoldScores):
    """Scores of a classifier: `value` is top-1, or mAP of records with several labels.

    Attributes:
      train_records: number of records that it learned from.
      top5: None with several labels.
    """

    train_records: int
    top5: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SvmScores(ClassScores):
    """Scores of linear SVMs: `value` is top-1 with the cost that is best on the test records.

    Attributes:
      cost: that cost.
      top1_by_cost: top-1 with each cost, by its text.
      held_out_cost: the cost that is best on held-out training records; None: none can be held out.
      top1_held_out_cost: top-1 on the test records with that cost.
    """

    cost: float
    top1_by_cost: dict[str, float]
    held_out_cost: float | None = None
    top1_held_out_cost: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalScores(FoldScores):
    """Recalls of retrieval across modalities; `value` is their mean at 1.

    Attributes:
      recalls: {`FROM_to_TO_recall_K`, `FROM_to_TO_same_class_recall_K`: recall}.
    """

    recalls: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """See `FoldScores.to_json`; the recalls stand beside the other fields."""
        found = super().to_json()
        return found | found.pop("recalls")
