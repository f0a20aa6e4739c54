"""Writing a data set: TFRecord shards, their indexes, and the files that describe them.

The layout is that of tensorflow-datasets, so `tfds.builder_from_directory` opens the folder; its
JSON files are written by its own classes, which need no TensorFlow for that. `metadata.json`
appears first and `dataset_info.json` last: a folder with the latter is complete.
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
from data_pipelines.format import open_files, record_schema, storage, tfrecord
from data_pipelines.format.metadata import Metadata
from data_pipelines.format.record_schema import Record

if TYPE_CHECKING:  # takes a while
    import tensorflow_datasets as tfds

DATASET_INFO = "dataset_info.json"
_VERSION = "1.0.0"
# What `storage.writer` writes before a shard, an index or a description has its name.
_LEFTOVER = re.compile(r"(\w+-\w+\.tfrecord-\d{5}-of-\d{5}(\.index)?|\w+\.json)\.\d+\.tmp")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished shard: its number of records and its size in bytes."""

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
        """Writes the index; to be called when the shard has its name."""
        entries = np.zeros(len(self._entries), tfrecord.INDEX_ENTRY)
        entries["length"] = [length for length, _ in self._entries]
        entries["crc"] = np.frombuffer(b"".join(footer for _, footer in self._entries), "<u4")
        with storage.writer(self._path + tfrecord.INDEX_SUFFIX) as file:
            file.write(tfrecord.pack_index(entries, self._classes))
        return Shard(len(entries), int(entries["length"].sum()) + tfrecord.FRAMING * len(entries))


def write_shard(path: str, records: Iterable[bytes]) -> Shard:
    """Writes one shard and its index; neither has its name before it is complete and synced.

    Args:
      path: of the shard; see `tfrecord.shard_name`.
      records: serialized records, taken one at a time.
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
    """Writes a data set from records in memory or made one at a time, in this process.

    Records go to the shards in turn. The same records give the same bytes.

    Args:
      output_dir: the folder (or URL), made where missing.
      metadata: of the data set; its `name` names the shards.
      splits: the records of each split.
      shards: number of shards of each split.
      progress: called with the number of records written so far, after each.

    Raises:
      UserError: the folder holds a complete data set already, a name is unfit for a file, or this
        process may not have as many files open.
    """
    start_dataset(output_dir, metadata, splits)
    if not open_files.allow(shards):
        raise UserError(
            f"{shards} shards are written at once, and this process may not have so many files"
            " open: raise the limit (ulimit -n), or ask for fewer shards."
        )
    written = 0
    finished: dict[str, list[Shard]] = {}
    for split, records in splits.items():
        names = [tfrecord.shard_name(metadata.name, split, i, shards) for i in range(shards)]
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
    """Makes the folder of a data set and checks that it can take one.

    Args:
      output_dir: the folder, a path or URL.
      metadata: of the data set.
      splits: their names.

    Raises:
      UserError: it holds a complete data set already, or a name is unfit for a file.
    """
    check_names(metadata.name, *splits)
    storage.make_folder(output_dir)
    if storage.exists(storage.join(output_dir, DATASET_INFO)):
        raise UserError(f"{output_dir} holds a data set already: give another folder.")


def remove_leftovers(output_dir: str) -> None:
    """Removes what a process that was killed had begun to write; for who holds the folder's lease.

    Without the lease it would take the files of a process that is still writing them.
    """
    if not storage.is_remote(output_dir):
        for name in storage.sizes(output_dir):
            if _LEFTOVER.fullmatch(name):
                os.remove(os.path.join(output_dir, name))


def check_names(*names: str) -> None:
    """Checks the names of a data set and its splits, which name its files.

    Raises:
      UserError: one is unfit for that.
    """
    for name in names:
        if not metadata_lib.NAME.fullmatch(name):
            raise UserError(
                f"{name!r} can't name a data set or split: use lower-case letters, digits and _."
            )


def finish_dataset(
    output_dir: str, metadata: Metadata, splits: Mapping[str, Sequence[Shard]]
) -> None:
    """Describes finished shards in the folder's JSON files.

    Args:
      output_dir: the folder (or URL) of the shards.
      metadata: of the data set.
      splits: the shards of each split, in order.
    """
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
        description="Made by data_pipelines of xkd_jax; metadata.json says how.",
        features=_tfds_features(metadata),
    )
    info.set_file_format("tfrecord")
    info.set_splits(tfds.core.splits.SplitDict(infos))
    info.write_to_directory(folder)


def _tfds_features(metadata: Metadata) -> tfds.features.FeaturesDict:
    """Returns the features of `schema` in the terms of tensorflow-datasets."""
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
