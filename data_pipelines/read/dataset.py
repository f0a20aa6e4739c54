"""One split of a data set, opened for reading."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from data_pipelines import json_file
from data_pipelines.errors import UserError
from data_pipelines.format import dmvr, record_schema, shards, storage, tfrecord
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format.metadata import Metadata
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import LoaderConfig

# Records that a thread of `index_rows` reads before it asks for more.
_AT_ONCE = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The records of a split, read at random; can be pickled.

    Attributes:
      metadata: what holds for every record.
      source: the serialized records.
      parse: makes a record of a serialized one and its name for an error message.
    """

    metadata: Metadata
    source: tfrecord.TFRecordSource
    parse: Callable[[bytes, str], Record]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def digest(self) -> str:
        """Of the content of its records in order; see `TFRecordSource.digest`."""
        return self.source.digest

    def __getitem__(self, record: int) -> Record:
        """Returns a record.

        Raises:
          UserError: it is damaged or of another layout.
        """
        return self.parse(self.source[record], self.source.name(record))


@dataclasses.dataclass(frozen=True)
class _Parser:
    mels: int
    classes: int | None

    def __call__(self, data: bytes, where: str) -> Record:
        return record_schema.parse(data, self.mels, where, self.classes)


def open_dataset(config: LoaderConfig, directory: str, split: str) -> Dataset:
    """Opens a split of the data set in a folder or behind a URL; `a+b` is two splits as one.

    A folder without `metadata.json` but with shards in the DMVR schema is read as such.

    Raises:
      UserError: the data set is incomplete or damaged, has no such split, has no records, or was
        made with other rates or sizes than the config's.
    """
    parse: Callable[[bytes, str], Record]
    if metadata_lib.FILE not in storage.sizes(directory) and dmvr.has_shards(directory):
        metadata, parse, find = dmvr.metadata_for(config), dmvr.DmvrParser(config), dmvr.find_shards
    else:
        metadata = metadata_lib.read(directory)
        metadata_lib.check_config(metadata, config)
        parse, find = _Parser(metadata.mels, metadata.classes), _find_described_shards
    parts = split.split("+")
    if len(set(parts)) < len(parts):
        raise UserError(f"The split {split!r} names one twice: give each once.")
    found: dict[str, int] = {}
    for part in parts:
        found |= find(directory, part)
    source = tfrecord.TFRecordSource(found, verify=config.data.verify_checksums)
    if find is _find_described_shards:
        _check_lengths(directory, split, source)
    if not len(source):
        raise UserError(f"The split {split!r} of {directory} has no records: see its report.json.")
    dataset = Dataset(metadata, source, parse)
    _check_labels(dataset, directory)
    return dataset


def _check_labels(dataset: Dataset, directory: str) -> None:
    """Holds labels against the classes by the shards' indexes, without reading a record.

    Of shards whose index doesn't say, each record is checked when it is read.
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
            f"{len(bad)} of {len(source)} records of {directory} have labels that name no class"
            f" (first: {bad[0]}): build the data set again from the right lists."
        )
    if suspects:
        path = source.paths[suspects[0]]
        raise UserError(
            f"{path}{tfrecord.INDEX_SUFFIX} states other labels than its shard has: delete it."
        )


@dataclasses.dataclass(frozen=True)
class RecordIndex:
    """What an evaluation asks of every record before it reads clips.

    Attributes:
      name: of the data set.
      label: int64 [records], -1 where there is none or the data set is multi-label.
      train_folds: bool [records, folds], whether an official fold trains on a record.
      test_folds: bool [records, folds], whether it tests on it.
      digest: the data set's (`Dataset.digest`).
    """

    name: str
    label: np.ndarray
    train_folds: np.ndarray
    test_folds: np.ndarray
    digest: str

    def fold_records(self, fold: int, use: Literal["train", "test"]) -> np.ndarray:
        """Returns the indices of the records that an official fold trains or tests on, int64 [n].

        Raises:
          UserError: the data set has no such fold.
        """
        folds = self.train_folds.shape[1]
        if not 1 <= fold <= folds:
            raise UserError(f"The data set {self.name} has {folds} folds and no fold {fold}.")
        return np.flatnonzero(getattr(self, f"{use}_folds")[:, fold - 1])


def index_rows(
    dataset: Dataset,
    records: range,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Reads some records, without decoding any, for `index_of`.

    Args:
      dataset: the split.
      records: which, as processes may share the reading.
      threads: that read at the same time.
      progress: called now and then, in this thread, with the number of records read so far.

    Returns:
      uint32 [records, 1 + 2 * folds]: label modulo 2^32, and whether each official fold trains and
      tests on it.

    Raises:
      UserError: a record is damaged or of another layout.
    """
    folds = np.arange(1, dataset.metadata.folds + 1)
    rows = np.zeros((len(records), 1 + 2 * len(folds)), np.uint32)

    def look(numbers: range) -> int:
        for number in numbers:
            record = dataset[records[number]]
            uses = [np.isin(folds, found) for found in (record.train_folds, record.test_folds)]
            rows[number] = [record.label % 2**32, *np.concatenate(uses)]
        return numbers.stop

    count = len(records)
    parts = [range(i, min(i + _AT_ONCE, count)) for i in range(0, count, _AT_ONCE)]
    pool = ThreadPoolExecutor(threads)
    try:
        for done in pool.map(look, parts):
            if progress:
                progress(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return rows


def index_of(dataset: Dataset, rows: np.ndarray) -> RecordIndex:
    """Returns what `index_rows` gave of all records, in their order."""
    label = rows[:, 0].astype(np.int32).astype(np.int64)
    train, test = np.split(rows[:, 1:].astype(bool), 2, axis=1)
    return RecordIndex(dataset.metadata.name, label, train, test, dataset.digest)


def _find_described_shards(directory: str, split: str) -> dict[str, int]:
    found = tfrecord.find_shards(directory, split)
    told = _told_lengths(directory, split)
    if len(found) != len(told):
        raise UserError(
            f"{directory} has {len(found)} shards of the split {split!r} and"
            f" {shards.DATASET_INFO} says {len(told)}: build the data set again."
        )
    return found


def _told_lengths(directory: str, split: str) -> list[int]:
    """Returns the number of records in each shard of a split that dataset_info.json tells."""
    path = storage.join(directory, shards.DATASET_INFO)
    try:
        splits = json_file.read(path)["splits"]
        (told,) = (_numbers(s["shardLengths"]) for s in splits if s["name"] == split)
    except FileNotFoundError:
        raise UserError(f"{directory} is incomplete: run data_pipelines.build again.") from None
    except json_file.ContentError as error:
        raise UserError(f"{path} is damaged ({error}): build the data set again.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: build the data set again.") from None
    return told


def _numbers(texts: list[str]) -> list[int]:
    """Returns the whole numbers of a list; protobuf writes those of 64 bits as texts."""
    wrong = [text for text in texts if not re.fullmatch("[0-9]{1,18}", str(text))]
    if wrong:
        raise json_file.ContentError(f"{json_file.shown(wrong[0])} is no number of records")
    return [int(text) for text in texts]


def _check_lengths(directory: str, split: str, source: tfrecord.TFRecordSource) -> None:
    told = [n for part in split.split("+") for n in _told_lengths(directory, part)]
    for path, here, there in zip(source.paths, source.shard_lengths, told, strict=True):
        if here != there:
            raise UserError(
                f"{path} has {here} records and {shards.DATASET_INFO} says {there}: copy or build"
                " the shard again."
            )
