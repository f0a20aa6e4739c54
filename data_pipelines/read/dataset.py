"""Opens a split of a data set for reading."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format import (
    dmvr,
    dmvr_shards,
    record_schema,
    record_source,
    shard_index,
)
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format.metadata import Metadata
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import LoaderConfig, Modality
from data_pipelines.read import described_splits
from data_pipelines.terminal import count

# Records per task of a thread of `index_rows`.
_AT_ONCE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The records of a split, with random access; can be pickled.

    Attributes:
      metadata: of the data set.
      source: the serialized records.
      parse: (serialized record, its name in error messages) -> record.
    """

    metadata: Metadata
    source: record_source.TFRecordSource
    parse: Callable[[bytes | memoryview, str], Record]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def digest(self) -> str:
        """Digest of the content of all records in order; see `TFRecordSource.digest`."""
        return self.source.digest

    def __getitem__(self, record: int) -> Record:
        """Returns a record.

        Raises:
          UserError: the record is damaged or of another layout.
        """
        return self.parse(self.source[record], self.source.name(record))


@dataclasses.dataclass(frozen=True)
class _Parser:
    mels: int
    classes: int | None

    def __call__(self, data: bytes | memoryview, where: str) -> Record:
        return record_schema.parse(data, self.mels, where, self.classes)


def open_dataset(
    config: LoaderConfig,
    directory: str,
    split: str,
    modalities: Sequence[Modality] | None = None,
    *,
    fixed: bool = False,
) -> Dataset:
    """Opens a split of the data set in a folder or at a URL; `a+b` joins two splits.

    A folder without `metadata.json` and with shards in the DMVR schema is read by `dmvr`.

    Args:
      config: rates and sizes that the data set must have.
      directory: the folder or URL.
      split: its name.
      modalities: those that will be read, which the data set must have; None: the config's.
      fixed: whether the config is a trained network's; messages then suggest no other settings.

    Raises:
      UserError: the data set is incomplete or damaged, has no such split, no records or not the
        modalities, or has other rates or sizes than the config.
    """
    parts = split.split("+")
    if len(set(parts)) < len(parts):
        raise UserError(f"data.split={split!r} repeats a split: give each split once.")
    verify = config.data.verify_checksums
    parse: Callable[[bytes | memoryview, str], Record]
    if not metadata_lib.is_described(directory) and dmvr_shards.has_shards(directory):
        metadata, parse = dmvr.metadata_for(config), dmvr.DmvrParser(config)
        found: dict[str, int] = {}
        for part in parts:
            found |= dmvr_shards.find_shards(directory, part)
        source = record_source.TFRecordSource(found, verify)
    else:
        metadata = metadata_lib.read(directory)
        wanted = config.modalities if modalities is None else modalities
        metadata_lib.check_modalities(metadata, wanted, directory)
        metadata_lib.check_config(metadata, config, directory, fixed=fixed)
        parse = _Parser(metadata.mels, metadata.classes)
        source = described_splits.open_source(directory, metadata.name, parts, verify)
    if not len(source):
        raise UserError(
            f"The split {split!r} of {directory} has no records: see its report.json"
            " for the reasons."
        )
    dataset = Dataset(metadata, source, parse)
    _check_labels(dataset, directory)
    return dataset


def _check_labels(dataset: Dataset, directory: str) -> None:
    """Checks labels by the shards' indexes, without reading a valid record.

    If an index lacks the number of classes, each record is checked when it is read.
    """
    source, classes = dataset.source, dataset.metadata.classes
    suspects = [n for n, needed in enumerate(source.classes) if (needed or 0) > classes]
    bad = []
    for record in (record for shard in suspects for record in source.records_of(shard)):
        found = record_schema.parse(
            source[record], dataset.metadata.mels, source.name(record), None
        )
        if fault := record_schema.label_fault(found.label, found.labels, classes):
            bad.append(f"{found.id}, {source.name(record)} with {fault}")
    if bad:
        raise UserError(
            f"{len(bad)} of {count(len(source), 'record')} of {directory} have labels that are not"
            f" classes (first: {bad[0]}): build the data set again from the official lists."
        )
    if suspects:
        path = source.index_of(suspects[0]) or source.paths[suspects[0]] + shard_index.SUFFIX
        raise UserError(f"{path} states a wrong number of classes: delete it.")


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """Labels and folds of all records, which an evaluation needs before it reads clips.

    Attributes:
      name: of the data set.
      label: int64 [records]; -1 without a label, or in a multi-label data set.
      train_folds: bool [records, folds], whether an official fold trains on a record.
      test_folds: bool [records, folds], whether it tests on the record.
      digest: `Dataset.digest`.
    """

    name: str
    label: np.ndarray
    train_folds: np.ndarray
    test_folds: np.ndarray
    digest: str

    def fold_records(self, fold: int, use: Literal["train", "test"]) -> np.ndarray:
        """Returns the indices of the records that a fold trains or tests on, int64 [n].

        Raises:
          UserError: the data set has no such fold.
        """
        folds = self.train_folds.shape[1]
        if not 1 <= fold <= folds:
            raise UserError(
                f"The data set {self.name} has {count(folds, 'fold')} and no fold {fold}: give"
                " another by --config.data.folds."
            )
        return np.flatnonzero(getattr(self, f"{use}_folds")[:, fold - 1])


def index_rows(
    dataset: Dataset,
    records: range,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Reads labels and folds of records, for `index_of`; decodes no media.

    Args:
      dataset: the split.
      records: indices of the records, a part of them on each process.
      threads: number of threads.
      progress: called repeatedly, in this thread, with the number of records read so far.

    Returns:
      uint32 [records, 1 + 2 * folds]: label modulo 2^32, then whether each fold trains on the
      record, then whether each fold tests on it.

    Raises:
      UserError: a record is damaged or of another layout.
    """
    folds = np.arange(1, dataset.metadata.folds + 1)
    rows = np.zeros((len(records), 1 + 2 * len(folds)), np.uint32)

    def read(numbers: range) -> int:
        for number in numbers:
            record = dataset[records[number]]
            uses = [np.isin(folds, found) for found in (record.train_folds, record.test_folds)]
            rows[number] = [record.label % 2**32, *np.concatenate(uses)]
        return numbers.stop

    last = len(records)
    parts = [range(i, min(i + _AT_ONCE, last)) for i in range(0, last, _AT_ONCE)]
    pool = ThreadPoolExecutor(threads)
    try:
        for done in pool.map(read, parts):
            if progress:
                progress(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return rows


def index_of(dataset: Dataset, rows: np.ndarray) -> RecordIndex:
    """Returns the index of a data set.

    Args:
      dataset: the split.
      rows: result of `index_rows` for all records, uint32 [records, 1 + 2 * folds].
    """
    label = rows[:, 0].astype(np.int32).astype(np.int64)
    train, test = np.split(rows[:, 1:].astype(bool), 2, axis=1)
    return RecordIndex(dataset.metadata.name, label, train, test, dataset.digest)
