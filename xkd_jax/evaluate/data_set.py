"""Checks of an evaluation's data set, and its summary in results."""

from __future__ import annotations

import dataclasses
import statistics
from typing import NoReturn

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format.metadata import Metadata
from data_pipelines.loader_config import Modality
from data_pipelines.terminal import escaped
from xkd_jax.config.benchmarks import BENCHMARKS
from xkd_jax.config.evaluation import Protocol
from xkd_jax.evaluate.splits import Benchmark


def check(
    directory: str, benchmark: str, protocol: Protocol, modalities: tuple[Modality, ...]
) -> None:
    """Checks that the shards are the benchmark's and have the evaluated modalities.

    Shards in the DMVR schema have no metadata and are not checked.

    Args:
      directory: folder of the shards; empty: not checked here.
      benchmark: name of the benchmark.
      protocol: of the evaluation.
      modalities: modalities whose encoders are evaluated.

    Raises:
      UserError: they are not, or the folder does not exist.
    """
    if directory and metadata_lib.is_described(directory):
        metadata = metadata_lib.read(directory)
        _check_name(directory, benchmark, metadata)
        if lacking := [m for m in modalities if m not in metadata.modalities]:
            _refuse_lacking(directory, lacking[0], protocol, metadata)


def _check_name(directory: str, benchmark: str, metadata: Metadata) -> None:
    record = BENCHMARKS.get(benchmark)
    if record and record.data_set and record.data_set != metadata.name:
        raise UserError(
            f"{directory} holds the data set {metadata.name}, and the evaluation is of the"
            f" benchmark {benchmark}: give that benchmark's shards by --config.data.dir, or"
            f" --config.benchmark={metadata.name} for a result under another name."
        )


def _refuse_lacking(
    directory: str, modality: Modality, protocol: Protocol, metadata: Metadata
) -> NoReturn:
    held = metadata.modalities
    remedy = f"--config.modality={held[0]}" if held else "another data set"
    if protocol == "retrieval":
        remedy = "a data set that has both video and audio"
    raise UserError(
        f"The data set {metadata.name} in {directory} has no {modality}: give {remedy}."
    )


@dataclasses.dataclass(frozen=True)
class DataSummary:
    """The section `data` of `result.json`.

    Attributes:
      name: name of the data set.
      classes: number of classes.
      splits: names of the splits that are used.
      records: {split: number of records}.
      digest: {split: digest of its content}.
      folds: numbers of the folds that are evaluated.
      folds_left_out: numbers of the data set's other folds.
      left_out: {reason: number of source files that the shards lack}.
      class_names: names of the classes, in the order of the labels.
    """

    name: str
    classes: int
    splits: list[str]
    records: dict[str, int]
    digest: dict[str, str]
    folds: list[int]
    folds_left_out: list[int]
    left_out: dict[str, int]
    class_names: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, benchmark: Benchmark) -> DataSummary:
        """Returns the summary of a benchmark's data."""
        metadata = benchmark.test.metadata
        splits = {
            benchmark.train_name: benchmark.train_index,
            benchmark.test_name: benchmark.test_index,
        }
        folds = [fold.number for fold in benchmark.folds if fold.number]
        others = set(range(1, metadata.folds + 1)) - set(folds)
        return cls(
            name=metadata.name,
            classes=benchmark.classes,
            splits=list(splits),
            records={name: len(index.label) for name, index in splits.items()},
            digest={name: index.digest for name, index in splits.items()},
            folds=folds,
            folds_left_out=sorted(others) if folds else [],
            left_out=metadata.left_out,
            class_names=list(metadata.class_names),
        )

    def describe(self) -> str:
        """Returns the lines on folds and files that are not evaluated; empty if there are none."""
        lines = []
        if self.folds_left_out:
            numbers = ", ".join(map(str, self.folds_left_out))
            lines.append(f"left out  folds {numbers}, which --config.data.folds doesn't name")
        if self.left_out:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
            lines.append(f"left out  files when the data set was built: {reasons}")
        return "".join(f"\n{escaped(line)}" for line in lines)


def chance(benchmark: Benchmark, metric: str) -> float | None:
    """Returns the value of a random guess in percent, as the mean over folds.

    Args:
      benchmark: the data.
      metric: name of the value; None is returned unless it is top-1 or recall at 1.
    """
    if metric == "top-1":
        return 100 / benchmark.classes
    if metric == "recall at 1":
        return statistics.fmean(100 / len(fold.test) for fold in benchmark.folds)
    return None


def largest_class(benchmark: Benchmark) -> float:
    """Returns the percentage of test records in their largest class, as the mean over folds."""
    labels = (benchmark.test_index.label[fold.test] for fold in benchmark.folds)
    return statistics.fmean(100 * int(np.max(np.bincount(found))) / len(found) for found in labels)
