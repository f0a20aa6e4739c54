"""Writes a data set: TFRecord shards, their indexes, and the files that describe them.

The layout is that of tensorflow-datasets: `tfds.builder_from_directory` opens the folder, whose
JSON files are written by classes of that library, without TensorFlow. `metadata.json` is written
first and `dataset_info.json` last: a folder with the latter is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format import (
    open_files,
    record_schema,
    shard_index,
    shard_names,
    split_index,
    storage,
    tfrecord,
)
from data_pipelines.format.metadata import Metadata
from data_pipelines.format.record_schema import Record

if TYPE_CHECKING:  # slow to import
    import tensorflow_datasets as tfds

DATASET_INFO = "dataset_info.json"
_VERSION = "1.0.0"
# Temporary files of `storage.writer` for shards, indexes and JSON files.
_LEFTOVER = re.compile(
    r"(\w+-\w+\.tfrecord-\d{5,9}-of-\d{5,9}(\.index)?|\w+-\w+\.index|\w+\.json)\.\d+\.tmp"
)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished shard: its number of records, and their size in bytes."""

    records: int
    size: int


class _ShardWriter:
    """Writes the records of one shard to its file, and then its index."""

    def __init__(self, path: str, file: BinaryIO):
        self._path, self._file = path, file
        self._entries: list[tuple[int, bytes]] = []
        self._classes: int | None = 0

    def add(self, data: bytes) -> None:
        """Writes a serialized record."""
        framed = tfrecord.frame(data)
        self._file.writelines(framed)
        self._entries.append((len(data), framed[-1]))
        needed = record_schema.classes_needed(data)
        known = self._classes is not None and needed is not None
        self._classes = max(self._classes or 0, needed or 0) if known else None

    def write_index(self) -> Shard:
        """Writes the index; must be called after the shard is renamed to its final name."""
        entries = np.zeros(len(self._entries), shard_index.ENTRY)
        entries["length"] = [length for length, _ in self._entries]
        entries["crc"] = np.frombuffer(b"".join(footer for _, footer in self._entries), "<u4")
        with storage.writer(self._path + shard_index.SUFFIX) as file:
            file.write(shard_index.pack(entries, self._classes))
        return Shard(len(entries), int(entries["length"].sum()) + tfrecord.FRAMING * len(entries))


def write_shard(path: str, records: Iterable[bytes]) -> Shard:
    """Writes one shard and its index; each is renamed to its final name when complete and synced.

    Args:
      path: of the shard; see `shard_names.shard_name`.
      records: serialized records, consumed one at a time.
    """
    with storage.writer(path) as file:
        shard = _ShardWriter(path, file)
        for data in records:
            shard.add(data)
    return shard.write_index()


def write_dataset(
    output_dir: str,
    metadata: Metadata,
    splits: Mapping[str, Iterable[Record]],
    shards: int = 8,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes a data set from an iterable of records, in this process.

    Records are distributed over the shards in turn. The same records give the same bytes.

    Args:
      output_dir: the folder (or URL), created if missing.
      metadata: of the data set; its `name` names the shards.
      splits: the records of each split.
      shards: number of shards of each split.
      progress: called after each record with the number written so far.

    Raises:
      UserError: the folder has a complete data set already, a name is not permitted, or the limit
        of open files is too low.
    """
    start_dataset(output_dir, metadata, splits)
    if not open_files.allow(shards):
        raise UserError(
            f"{shards} shards are written at the same time, more than the limit of open files:"
            " raise the limit (ulimit -n), or give fewer shards."
        )
    written = 0
    finished: dict[str, list[Shard]] = {}
    for split, records in splits.items():
        names = [shard_names.shard_name(metadata.name, split, i, shards) for i in range(shards)]
        paths = [storage.join(output_dir, name) for name in names]
        with contextlib.ExitStack() as stack:
            writers = [_ShardWriter(p, stack.enter_context(storage.writer(p))) for p in paths]
            for i, record in enumerate(records):
                writers[i % shards].add(record_schema.serialize(record))
                written += 1
                if progress:
                    progress(written)
        finished[split] = [writer.write_index() for writer in writers]
    finish_dataset(output_dir, metadata, finished)


def start_dataset(output_dir: str, metadata: Metadata, splits: Iterable[str]) -> None:
    """Creates the folder of a new data set.

    Args:
      output_dir: the folder, a path or URL.
      metadata: of the data set.
      splits: names of the splits.

    Raises:
      UserError: the folder has a complete data set already, or a name is not permitted.
    """
    check_names(metadata.name, *splits)
    storage.make_folder(output_dir)
    if storage.exists(storage.join(output_dir, DATASET_INFO)):
        raise UserError(f"{output_dir} has a complete data set already: give another folder.")


def remove_leftovers(output_dir: str) -> None:
    """Removes temporary files of killed processes.

    The caller must hold the folder's lease, as another process could still be writing such files.
    """
    if not storage.is_remote(output_dir):
        for name in storage.sizes(output_dir):
            if _LEFTOVER.fullmatch(name):
                os.remove(os.path.join(output_dir, name))


def check_names(*names: str) -> None:
    """Checks the names of a data set and its splits, which are parts of file names.

    Raises:
      UserError: a name is not permitted.
    """
    for name in names:
        if not metadata_lib.NAME.fullmatch(name):
            raise UserError(
                f"{name!r} can't name a data set or split: use lower-case letters, digits and _."
            )


def finish_dataset(
    output_dir: str, metadata: Metadata, splits: Mapping[str, Sequence[Shard]]
) -> None:
    """Writes the files that describe finished shards, which completes the data set.

    These are the index of each split and the JSON files.

    Args:
      output_dir: the folder (or URL) of the shards.
      metadata: of the data set.
      splits: the shards of each split, in order.
    """
    for split, written in splits.items():
        sizes = [shard.size for shard in written]
        split_index.write(output_dir, metadata.name, split, sizes)
    with storage.writer(storage.join(output_dir, metadata_lib.FILE)) as file:
        file.write(metadata_lib.to_json(metadata).encode())
    with tempfile.TemporaryDirectory() as folder:
        _write_tfds_files(folder, metadata, splits)
        names = sorted(os.listdir(folder), key=lambda name: (name == DATASET_INFO, name))
        for name in names:
            with storage.writer(storage.join(output_dir, name)) as file:
                file.write(storage.read(os.path.join(folder, name)))


def _write_tfds_files(
    folder: str, metadata: Metadata, splits: Mapping[str, Sequence[Shard]]
) -> None:
    import tensorflow_datasets as tfds

    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[shard.records for shard in shards],
            num_bytes=sum(shard.size for shard in shards),
        )
        for name, shards in splits.items()
    ]
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=metadata.name, version=tfds.core.Version(_VERSION), data_dir=folder, module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Made by data_pipelines of xkd_jax; see metadata.json.",
        features=_tfds_features(metadata),
    )
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)


def _tfds_features(metadata: Metadata) -> tfds.features.FeaturesDict:
    """Returns the features of `record_schema` as features of tensorflow-datasets."""
    import tensorflow_datasets as tfds

    features = tfds.features
    classes = features.ClassLabel(names=metadata.class_names) if metadata.class_names else np.int64
    raw = tfds.features.Encoding.BYTES
    return features.FeaturesDict(
        {
            "frames": features.Sequence(features.Image(encoding_format="jpeg")),
            "log_mel": features.Tensor(shape=(None, metadata.mels), dtype=np.uint16, encoding=raw),
            "waveform": features.Tensor(shape=(None,), dtype=np.int16, encoding=raw),
            "label": np.int64 if metadata.multi_label else classes,
            "labels": features.Sequence(classes if metadata.multi_label else np.int64),
            "label_text": features.Text(),
            "train_folds": features.Sequence(np.int64),
            "test_folds": features.Sequence(np.int64),
            "id": features.Text(),
            "path": features.Text(),
            "start": np.float32,
            "end": np.float32,
        }
    )
