"""Which records train and which test, fold by fold; nothing of one ever serves as the other."""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.dataset import Dataset, index_records, open_dataset
from xkd_jax.config import Config
from xkd_jax.errors import UserError
from xkd_jax.evaluate.config import EvalDataConfig


@dataclasses.dataclass(frozen=True)
class Split:
    """One evaluation of a benchmark: `fold` 0 is that of the published splits.

    Attributes:
      fold: its number.
      train: indices in the training split, int64 [records], ascending.
      test: indices in the test split.
    """

    fold: int
    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark's records and its splits.

    Attributes:
      train: the split that holds the training records.
      test: the split that holds the test records; with folds, the same.
      train_name: of the split.
      test_name: of the split.
      splits: in the order of the folds.
    """

    train: Dataset
    test: Dataset
    train_name: str
    test_name: str
    splits: list[Split]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.train.metadata.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether a record may have several classes."""
        return self.train.metadata.multi_label


def open_benchmark(views: Config, config: EvalDataConfig, *, labelled: bool = True) -> Benchmark:
    """Opens the data and lists each split's records.

    Args:
      views: the pipeline's config (`pretrained.viewing`).
      config: which splits and folds.
      labelled: whether the evaluation needs labels.

    Raises:
      UserError: the data set lacks a split, a fold, or labels that are needed.
    """
    train = open_dataset(views, config.dir, config.train_split)
    if labelled and len(train.metadata.class_names) < 2:
        raise UserError(
            f"The data set {train.metadata.name} has no classes: build it from the benchmark's own"
            " lists."
        )
    if not config.folds:
        test = open_dataset(views, config.dir, config.test_split)
        everything = Split(0, np.arange(len(train)), np.arange(len(test)))
        return Benchmark(train, test, config.train_split, config.test_split, [everything])
    index = index_records(train)
    splits = [
        Split(fold, index.fold_records(fold, "train"), index.fold_records(fold, "test"))
        for fold in config.folds
    ]
    for split in splits:
        both = np.intersect1d(split.train, split.test)
        if len(both) or not len(split.train) or not len(split.test):
            fault = f"{len(both)} records both train and test" if len(both) else "no records"
            raise UserError(f"Fold {split.fold} of {config.dir} has {fault}: build it again.")
    return Benchmark(train, train, config.train_split, config.train_split, splits)


def some_of_each_class(
    labels: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a share of each class's records, at least one; returns the chosen and the others.

    Args:
      labels: int [records].
      share: of 0 to 1.
      rng: decides which.

    Returns:
      Two ascending lists of positions in `labels`, int64.
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(share * len(members)))
        chosen[rng.permutation(members)[:count]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)
