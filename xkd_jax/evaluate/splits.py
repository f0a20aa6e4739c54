"""Train and test records of each fold, which never overlap."""

from __future__ import annotations

import dataclasses
from typing import Literal

import einops
import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines.errors import UserError
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.progress import ProgressMeter
from data_pipelines.read.dataset import Dataset, RecordIndex, index_of, index_rows, open_dataset
from data_pipelines.read.loader_processes import threads_of
from data_pipelines.terminal import count
from xkd_jax.config.evaluation import EvalDataConfig
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import print_on_main, run_on_all


@dataclasses.dataclass(frozen=True)
class Fold:
    """The records of one fold; number 0 is the published splits.

    Attributes:
      number: number of the fold, from 1, or 0.
      train: indices in the training split, int64 [records], ascending.
      test: indices in the test split, int64 [records], ascending.
    """

    number: int
    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark's records and its folds.

    Attributes:
      train: split with the training records; equal to `test` if nothing is trained.
      test: split with the test records; equal to `train` with folds.
      train_name: name of the training split.
      test_name: name of the test split.
      train_index: labels and folds of the training split's records, and their digest.
      test_index: labels and folds of the test split's records, and their digest.
      folds: the folds, in the order of the config.
    """

    train: Dataset
    test: Dataset
    train_name: str
    test_name: str
    train_index: RecordIndex
    test_index: RecordIndex
    folds: list[Fold]

    def records(self, use: Literal["train", "test"]) -> np.ndarray:
        """Returns the training or test records of all folds, int64 [n], ascending."""
        return np.unique(np.concatenate([getattr(fold, use) for fold in self.folds]))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.train.metadata.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether a record may have several classes."""
        return self.train.metadata.multi_label


def open_benchmark(
    views: LoaderConfig, config: EvalDataConfig, *, labeled: bool = True
) -> Benchmark:
    """Opens the data, reads all labels and returns the records of each fold.

    Args:
      views: the loader's config (`pretrained.viewing`).
      config: splits and folds.
      labeled: whether the evaluation needs labels; if not, nothing is trained.

    Raises:
      UserError: the data set has no such split or fold, needed labels are missing, or a record is
        both a training and a test record.
    """
    opened = _by_fold if config.folds else _by_split
    benchmark = opened(views, config, labeled)
    if labeled and not benchmark.multi_label:
        _check_labels(
            config.dir, benchmark.train, benchmark.train_index, benchmark.records("train")
        )
        _check_labels(config.dir, benchmark.test, benchmark.test_index, benchmark.records("test"))
    return benchmark


def _by_split(views: LoaderConfig, config: EvalDataConfig, labeled: bool) -> Benchmark:
    test_name = config.test_split
    train_name = config.train_split if labeled else test_name
    shared = set(train_name.split("+")) & set(test_name.split("+"))
    if labeled and shared:
        raise UserError(
            f"data.train_split {train_name!r} and data.test_split {test_name!r} share"
            f" {', '.join(sorted(shared))}: give splits without a record in common, or"
            " --config.data.folds."
        )
    test = train = _open(views, config.dir, "test_split", test_name)
    if labeled:
        train = _open(views, config.dir, "train_split", train_name)
        _check_classes(train, config.dir)
    test_index = train_index = index_records(test, test_name, threads_of(config.threads))
    if labeled:
        train_index = index_records(train, train_name, threads_of(config.threads))
    everything = Fold(0, np.arange(len(train)), np.arange(len(test)))
    return Benchmark(train, test, train_name, test_name, train_index, test_index, [everything])


def _by_fold(views: LoaderConfig, config: EvalDataConfig, labeled: bool) -> Benchmark:
    name = config.train_split
    dataset = _open(views, config.dir, "train_split", name)
    if labeled:
        _check_classes(dataset, config.dir)
    folds = dataset.metadata.folds
    if unknown := [fold for fold in config.folds if not 1 <= fold <= folds]:
        held = f"folds 1 to {folds}" if folds else "no folds"
        raise UserError(
            f"The data set {dataset.metadata.name} has {held} and no fold {unknown[0]}: give some"
            " that it has by --config.data.folds, or () for train_split and test_split."
        )
    index = index_records(dataset, name, threads_of(config.threads))
    chosen = [
        Fold(number, index.fold_records(number, "train"), index.fold_records(number, "test"))
        for number in config.folds
    ]
    for fold in chosen:
        both = np.intersect1d(fold.train, fold.test)
        if len(both) or not len(fold.train) or not len(fold.test):
            fault = "no records"
            if len(both):
                fault = f"{count(len(both), 'record')} in both training and test"
            raise UserError(f"Fold {fold.number} of {config.dir} has {fault}: build it again.")
    return Benchmark(dataset, dataset, name, name, index, index, chosen)


def _open(views: LoaderConfig, directory: str, key: str, split: str) -> Dataset:
    def opened() -> Dataset:
        try:
            # data_set.check has the modalities
            return open_dataset(views, directory, split, modalities=(), fixed=True)
        except UserError as error:
            raise type(error)(f"--config.data.{key}={split}: {error}") from None

    dataset = run_on_all(opened)
    agreement.require({f"data in {directory}": {split: dataset.digest}})
    return dataset


def _check_classes(dataset: Dataset, directory: str) -> None:
    classes = len(dataset.metadata.class_names)
    if classes < 2:
        raise UserError(
            f"The data set {dataset.metadata.name} in {directory} has {classes or 'no'}"
            f" class{'' if classes == 1 else 'es'}, and an evaluation needs two or more: build it"
            " again from the benchmark's official lists."
        )


def _check_labels(
    directory: str, dataset: Dataset, index: RecordIndex, records: np.ndarray
) -> None:
    classes = len(dataset.metadata.class_names)
    lacking = records[index.label[records] < 0]  # too large ones are refused earlier
    if len(lacking):
        raise UserError(
            f"{len(lacking)} of {len(records)} records that the evaluation uses of {directory} have"
            f" none of its {classes} classes (first: {dataset[int(lacking[0])].id}): build the data"
            " set again from lists that name a class for each file."
        )


def index_records(dataset: Dataset, split: str, threads: int) -> RecordIndex:
    """Reads the labels of all records, a part on each process, and prints progress.

    Args:
      dataset: the split.
      split: name of the split.
      threads: number of threads that read.

    Raises:
      UserError: a record can't be read.
    """
    records = range(jax.process_index(), len(dataset), jax.process_count())
    meter = ProgressMeter(f"records   {split}", len(records), "records")

    def print_progress(done: int) -> None:
        if meter.is_due():
            print_on_main(meter.line(done))

    rows = run_on_all(lambda: index_rows(dataset, records, threads, print_progress))
    return index_of(dataset, _interleaved(rows, len(dataset)))


def _interleaved(rows: np.ndarray, count: int) -> np.ndarray:
    """Merges the rows of all processes; process i of n has the rows i, i + n, i + 2n, ..."""
    processes = jax.process_count()
    padded = np.zeros((-(-count // processes), rows.shape[1]), rows.dtype)
    padded[: len(rows)] = rows
    every = np.asarray(multihost_utils.process_allgather(padded, tiled=True))
    in_order = einops.rearrange(every, "(p n) columns -> (n p) columns", p=processes)
    return in_order[:count]


def some_of_each_class(
    labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a fraction of each class's records, at least one of each class.

    Args:
      labels: int [records].
      fraction: from 0 to 1.
      rng: source of random numbers.

    Returns:
      Indices of the drawn records and of the others, int64, ascending.
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, round(fraction * len(members)))
        chosen[rng.permutation(members)[:count]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)
