"""One split of a data set, opened for reading."""

from __future__ import annotations

import dataclasses
import json

from data_pipelines import metadata as metadata_lib
from data_pipelines import schema, shards, storage, tfrecord
from data_pipelines.metadata import Metadata
from data_pipelines.schema import Record
from xkd_jax.config import Config
from xkd_jax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The records of a split, read at random; can be pickled.

    Attributes:
      metadata: what holds for every record.
      source: the serialized records.
    """

    metadata: Metadata
    source: tfrecord.TFRecordSource

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, record: int) -> Record:
        """Returns a record.

        Raises:
          UserError: it is damaged or of another layout.
        """
        return schema.parse(self.source[record], self.metadata.mels, self.source.name(record))


def open_dataset(config: Config, directory: str, split: str) -> Dataset:
    """Opens a split of the data set in a folder or behind a URL.

    Raises:
      UserError: the data set is incomplete or damaged, has no such split, has no records, or was
        made with other rates or sizes than the config's.
    """
    metadata = metadata_lib.read(directory)
    metadata_lib.check_config(metadata, config)
    found = tfrecord.find_shards(directory, split)
    source = tfrecord.TFRecordSource(found, verify=config.data.verify_checksums)
    _check_lengths(directory, split, list(found), source.shard_lengths)
    if not len(source):
        raise UserError(f"The split {split!r} of {directory} has no records: see its report.json.")
    return Dataset(metadata, source)


def _check_lengths(directory: str, split: str, paths: list[str], lengths: list[int]) -> None:
    path = storage.join(directory, shards.DATASET_INFO)
    try:
        splits = json.loads(storage.read(path))["splits"]
        (told,) = ([int(n) for n in s["shardLengths"]] for s in splits if s["name"] == split)
    except FileNotFoundError:
        raise UserError(f"{directory} is incomplete: run data_pipelines.build again.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: build the data set again.") from None
    for shard, here, there in zip(paths, lengths, told, strict=False):
        if here != there:
            raise UserError(
                f"{shard} has {here} records and {shards.DATASET_INFO} says {there}: copy or build"
                " the shard again."
            )
    if len(lengths) != len(told):
        raise UserError(
            f"{directory} has {len(lengths)} shards of the split {split!r} and"
            f" {shards.DATASET_INFO} says {len(told)}: build the data set again."
        )
