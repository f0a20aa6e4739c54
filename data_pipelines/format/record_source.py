"""Random access to the records of shards."""

from __future__ import annotations

import bisect
import contextlib
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.buffers import BufferPool
from data_pipelines.errors import UserError, file_error
from data_pipelines.format import held_indexes, shard_index, split_index, storage
from data_pipelines.format.open_files import OPEN_FILES
from data_pipelines.format.tfrecord import (
    FOOTER,
    FRAMING,
    HEADER,
    checked_length,
    cut_off,
    masked_crc,
)

# Memory of local records, in sizes of powers of two. Larger records are rare and use new memory.
_POOL = BufferPool()
_LARGEST_POOLED = 1 << 24  # bytes
# Records whose offsets a process keeps in memory, 16 bytes each. For larger splits, the indexes of
# the least recently used shards are read again.
RECORDS_HELD = 1 << 23


class TFRecordSource:
    """The records of shards, with random access: a source for `grain.MapDataset`.

    Thread-safe. It can be pickled, as each process opens files on first use (`open_files`). A local
    shard is refused if it was removed, or if its size or modification time has changed since the
    source was created. A remote read is one range request; changed content is detected by the
    checksums.
    """

    def __init__(
        self,
        shards: Mapping[str, int],
        verify: bool = True,
        splits: Sequence[tuple[int, split_index.SplitIndex | None]] | None = None,
    ):
        """Opens shards by the indexes of their splits, or by the index of each.

        Args:
          shards: {path or URL: size in bytes} of the shards, in order; see `find_shards`.
          verify: whether to check the data of each record by its checksum. Lengths are always
            checked.
          splits: (number of shards, index) of each split, in order. Without an index (None), the
            index of each of its shards is read, or the headers of the shard's records where that is
            invalid. None: all shards are of one split without an index.

        Raises:
          UserError: a shard is damaged or not a TFRecord file.
        """
        self._paths = list(shards)
        self._sizes = list(shards.values())
        self._times = [0 if storage.is_remote(path) else _time_of_change(path) for path in shards]
        self._verify = verify
        self._held = held_indexes.HeldIndexes(RECORDS_HELD)
        splits = [(len(shards), None)] if splits is None else splits
        self._index = split_index.joined(shards, splits, self._held.put)
        self._first = np.cumsum([0, *self._index.shards["records"].tolist()]).tolist()
        self._own_files()

    def _own_files(self) -> None:
        self._owner = object()
        weakref.finalize(self, OPEN_FILES.close, self._owner).atexit = False

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def paths(self) -> list[str]:
        """Paths of the shards, in order."""
        return self._paths

    @property
    def shard_lengths(self) -> list[int]:
        """Number of records in each shard."""
        return [int(records) for records in self._index.shards["records"]]

    @property
    def first_records(self) -> np.ndarray:
        """Index of the first record of each shard, and the number of all: int64 [shards + 1]."""
        return np.asarray(self._first, np.int64)

    @property
    def classes(self) -> list[int | None]:
        """Number of classes that the labels of each shard require, by its index; None: unknown."""
        needed = self._index.shards["classes"].tolist()
        return [None if classes == shard_index.UNKNOWN else classes for classes in needed]

    def index_of(self, shard: int) -> str:
        """Returns the path of the index of a shard's split; "" if it was opened by the shard's."""
        return self._index.file_of(shard)

    def records_of(self, shard: int) -> range:
        """Returns the indices of the records of a shard."""
        return range(self._first[shard], self._first[shard + 1])

    @property
    def digest(self) -> str:
        """Digest of the length and stored checksum of each record in order: 32 hexadecimal digits.

        It does not depend on the folder or on indexes. It changes if any record is changed, added,
        removed or moved.
        """
        return self._index.digest

    def __getitem__(self, record: int) -> memoryview:
        """Returns the data of one record, read-only bytes.

        Their memory is reused when nothing refers to it any more.

        Raises:
          IndexError: there is no such record.
          UserError: the record is damaged, or its shard was replaced or removed.
        """
        shard, number = self._locate(record)
        path = self._paths[shard]
        offset, length, crc = self._located(shard)[number].item()
        framed = self._read(shard, offset, length)
        with self._unless_replaced(shard):
            data = self._checked(path, number, framed, length, crc)
        return data.data.toreadonly()

    @contextlib.contextmanager
    def _unless_replaced(self, shard: int) -> Iterator[None]:
        """Names the cause of an error if a remote shard has another size than it had."""
        path = self._paths[shard]
        try:
            yield
        except UserError:
            if storage.is_remote(path) and storage.size(path) != self._sizes[shard]:
                raise _replaced(path) from None
            raise

    def _located(self, shard: int) -> np.ndarray:
        """Returns the places of a shard's records; reads the shard's index if it is not in memory.

        Raises:
          UserError: it is not the shard that was opened, or not the one in the split's index.
        """
        if (held := self._held.get(shard)) is not None:
            return held
        path = self._paths[shard]
        if not storage.is_remote(path) and _time_of_change(path) != self._times[shard]:
            raise _replaced(path)
        with self._unless_replaced(shard):
            try:
                entries = shard_index.load(path, self._sizes[shard]).entries
            except OSError as error:
                raise _cannot_read(path, error) from None
        if split_index.digest_of(entries) != self._index.shards["digest"][shard].tobytes():
            raise _other_than_described(path, self._index.file_of(shard))
        return self._held.put(shard, entries)

    def _checked(
        self, path: str, number: int, framed: np.ndarray, length: int, crc: int
    ) -> np.ndarray:
        """Returns the data of a record, `number` of its shard, uint8 [length].

        Raises:
          UserError: it does not match its checksums, or length and masked checksum of the index.
        """
        if len(framed) < length + FRAMING:
            raise cut_off(path, number)
        end = HEADER.size + length
        if checked_length(framed[: HEADER.size].tobytes(), path, number) != length:
            raise _of_another_shard(path, number, "length")
        data, stored = framed[HEADER.size : end], framed[end:].tobytes()
        if self._verify and stored != FOOTER.pack(masked_crc(data)):
            raise UserError(
                f"{path} is damaged in record {number} (its checksum is wrong): copy or build the"
                " shard again."
            )
        if self._verify and stored != FOOTER.pack(crc):
            raise _of_another_shard(path, number, "checksum")
        return data

    def name(self, record: int) -> str:
        """Returns the shard of a record and its number there, for error messages.

        Raises:
          IndexError: there is no such record.
        """
        shard, number = self._locate(record)
        return f"{self._paths[shard]}, record {number},"

    def _locate(self, record: int) -> tuple[int, int]:
        if not 0 <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        shard = bisect.bisect_right(self._first, record) - 1
        return shard, int(record - self._first[shard])

    def _read(self, shard: int, offset: int, length: int) -> np.ndarray:
        """Returns a record with header and footer, uint8 [bytes]; shorter if it is cut off."""
        path, size = self._paths[shard], length + FRAMING
        if storage.is_remote(path):
            return np.frombuffer(storage.read_range(path, offset, offset + size), np.uint8)
        try:
            with OPEN_FILES.opened(self._owner, shard, path) as descriptor:
                framed = _read_framed(descriptor, offset, size)
                now = os.fstat(descriptor)  # after the read, to detect a change during it
        except OSError as error:
            raise _cannot_read(path, error) from None
        expected = (self._sizes[shard], self._times[shard])
        if (now.st_size, now.st_mtime_ns) != expected or not now.st_nlink:
            raise _replaced(path)
        return framed

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_owner"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._own_files()

    def __repr__(self) -> str:
        return f"TFRecordSource({len(self._paths)} shards, {len(self)} records)"


def _time_of_change(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise _cannot_open(path, error) from None


def _cannot_open(path: str, error: OSError) -> UserError:
    return file_error(
        error, f"{path} can't be opened ({error.strerror}): check its permissions and its disk."
    )


def _cannot_read(path: str, error: OSError) -> UserError:
    if error.filename is not None:  # set by `os.open`, not by reads
        return _cannot_open(path, error)
    return file_error(error, f"{path} can't be read ({error.strerror}): check its disk.")


def _replaced(path: str) -> UserError:
    return UserError(
        f"{path} was replaced or removed while in use: restore it, or repeat the command."
    )


def _other_than_described(path: str, described: str) -> UserError:
    if not described:
        return _replaced(path)
    return UserError(
        f"{path} is not the shard that {described} describes: copy the data set again, or, if the"
        " shard was changed on purpose, run python -m data_pipelines.split_indexes."
    )


def _of_another_shard(path: str, number: int, what: str) -> UserError:
    return UserError(
        f"{path} does not match its index {path}{shard_index.SUFFIX} (record {number} has another"
        f" {what}): delete the index, and repeat the command."
    )


def _read_framed(descriptor: int, offset: int, size: int) -> np.ndarray:
    """Returns bytes of a file, uint8 [size]; fewer at its end."""
    pooled = 1 << (size - 1).bit_length()
    memory = _POOL.empty(pooled) if pooled <= _LARGEST_POOLED else np.empty(size, np.uint8)
    return memory[: os.preadv(descriptor, [memory[:size].data], offset)]
