"""Opens the shards of splits that `metadata.json` and `dataset_info.json` describe."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines import json_file
from data_pipelines.errors import UserError
from data_pipelines.format import metadata, shard_names, shards, split_index, storage
from data_pipelines.format.record_source import TFRecordSource
from data_pipelines.format.split_index import SplitIndex
from data_pipelines.terminal import count


def open_source(directory: str, name: str, splits: Sequence[str], verify: bool) -> TFRecordSource:
    """Opens the records of splits, one after the other.

    Args:
      directory: folder or URL of the data set.
      name: of the data set, by its metadata.
      splits: names of the splits.
      verify: whether to check the data of each record by its checksum.

    Raises:
      UserError: shards are missing, damaged or not those of `dataset_info.json`.
    """
    found: dict[str, int] = {}
    stated: list[int] = []
    indexes: list[tuple[int, SplitIndex | None]] = []
    for split in splits:
        sizes, lengths, index = _shards(directory, name, split)
        found |= sizes
        stated += lengths
        indexes.append((len(sizes), index))
    source = TFRecordSource(found, verify, indexes)
    for path, length, expected in zip(source.paths, source.shard_lengths, stated, strict=True):
        if length != expected:
            raise UserError(
                f"{path} has {count(length, 'record')} and {shards.DATASET_INFO} states {expected}:"
                " copy or build the shard again."
            )
    return source


def _shards(
    directory: str, name: str, split: str
) -> tuple[dict[str, int], list[int], SplitIndex | None]:
    """Returns {path: size} of a split's shards, their stated lengths, and their index if valid."""
    if not storage.can_list(directory):
        return _unlisted(directory, name, split)
    found = shard_names.find_shards(directory, split)
    stated = stated_lengths(directory, split)
    if len(found) != len(stated):
        raise UserError(
            f"{directory} has {count(len(found), 'shard')} of the split {split!r} and"
            f" {shards.DATASET_INFO} states {len(stated)}: build the data set again."
        )
    index = split_index.load(directory, name, split, len(found))
    if index is not None and index.shards["size"].tolist() != list(found.values()):
        index = None
    return found, stated, index


def _unlisted(
    directory: str, name: str, split: str
) -> tuple[dict[str, int], list[int], SplitIndex]:
    """Returns the same as `_shards`, for a URL that can't be listed."""
    stated = stated_lengths(directory, split)
    index = split_index.load(directory, name, split, len(stated))
    if index is None:
        raise UserError(
            f"{split_index.path_of(directory, name, split)} is missing or of other shards, and"
            " shards are read by https:// only with it: run python -m data_pipelines.split_indexes"
            " on the folder that is served."
        )
    sizes = index.shards["size"].tolist()
    paths = split_index.shard_paths(directory, name, split, len(sizes))
    return dict(zip(paths, sizes, strict=True)), stated, index


def stated_lengths(directory: str, split: str) -> list[int]:
    """Returns the number of records in each shard of a split, by `dataset_info.json`.

    Args:
      directory: folder or URL of the data set.
      split: name of the split.

    Raises:
      UserError: the file is missing or damaged, or has no such split.
    """
    with _described(directory) as splits:
        lengths = [s["shardLengths"] for s in splits if s["name"] == split]
        if len(lengths) != 1:
            raise json_file.ContentError(f"it has the split {split!r} {len(lengths)} times")
        return _numbers(lengths[0])


def names(directory: str) -> list[str]:
    """Returns the names of the splits of a data set, by `dataset_info.json`.

    Args:
      directory: folder or URL of the data set.

    Raises:
      UserError: the file is missing or damaged.
    """
    with _described(directory) as splits:
        found = [s["name"] for s in splits]
        if not all(isinstance(n, str) and metadata.NAME.fullmatch(n) for n in found):
            raise json_file.ContentError("it has names that are not those of splits")
        return found


@contextlib.contextmanager
def _described(directory: str) -> Iterator[Any]:
    """Yields the splits in `dataset_info.json`; invalid content is a `UserError`."""
    path = storage.join(directory, shards.DATASET_INFO)
    try:
        yield json_file.read(path)["splits"]
    except FileNotFoundError:
        raise UserError(f"{directory} is incomplete: run data_pipelines.build again.") from None
    except json_file.ContentError as error:
        raise UserError(f"{path} is damaged ({error}): build the data set again.") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: build the data set again.") from None


def _numbers(texts: list[str]) -> list[int]:
    """Returns a list of integers; the JSON of protobuf has int64 as strings."""
    wrong = [text for text in texts if not re.fullmatch("[0-9]{1,18}", str(text))]
    if wrong:
        raise json_file.ContentError(f"{json_file.shown(wrong[0])} is not a number of records")
    return [int(text) for text in texts]
