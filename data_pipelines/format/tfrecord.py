"""TFRecord files: the framing of a record, the index of a shard, and random access to shards.

A TFRecord file is a sequence of records, each framed as
    uint64 length | uint32 masked CRC-32C of the length | data | uint32 masked CRC-32C of the data
with little-endian numbers (TensorFlow, `core/lib/io/record_writer.h`). Records lie without gaps,
so the lengths alone locate each of them. Beside `SHARD` lies `SHARD.index`:
    8 bytes "XKDINDX2" | uint64 size of the shard | uint64 records | uint64 classes |
    uint64 length and uint32 masked CRC-32C of the data of each record |
    uint32 masked CRC-32C of everything before
where `classes` is how many a data set must have for the labels of the records, or 2^64 - 1 where
that is not known. A reader believes it only if its checksum holds and it accounts for every byte of
the shard; otherwise lengths and checksums are read from the shard itself. An index of layout 1
("XKDINDX1"), which had no checksums of the data, is not believed.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import os
import re
import struct
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from data_pipelines.errors import UserError, file_error
from data_pipelines.format import storage
from data_pipelines.format.open_files import OPEN_FILES
from data_pipelines.format.record_schema import MAX_RECORD_BYTES

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
FRAMING = HEADER.size + FOOTER.size
INDEX_SUFFIX = ".index"
# What an index holds of each record: length in bytes, and masked CRC-32C of the data.
INDEX_ENTRY = np.dtype([("length", "<u8"), ("crc", "<u4")])
_INDEX_MAGIC = b"XKDINDX2"
_INDEX_HEADER = struct.Struct("<8sQQQ")
_UNKNOWN = 2**64 - 1
_SHARD_NAME = re.compile(
    r"(?P<name>\w+)-(?P<split>\w+)\.tfrecord-(?P<shard>\d{5})-of-(?P<shards>\d{5})"
)


def masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of `data`, rotated and offset as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns what one record is written as: header, data, footer."""
    length = struct.pack("<Q", len(data))
    header = length + FOOTER.pack(masked_crc(length))
    return header, data, FOOTER.pack(masked_crc(data))


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
    """Returns the file name that tensorflow-datasets gives a shard.

    Args:
      name: of the data set.
      split: that the shard belongs to.
      shard: its number, from 0.
      shards: their number in the split.
    """
    return f"{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """What is known of a shard before its records are read.

    Attributes:
      entries: [records] of `INDEX_ENTRY`.
      classes: how many a data set must have for the labels of the records; None: not known.
    """

    entries: np.ndarray
    classes: int | None = None


def pack_index(entries: np.ndarray, classes: int | None = None) -> bytes:
    """Returns the content of the index of a shard.

    Args:
      entries: of its records, `INDEX_ENTRY`s [records].
      classes: that their labels ask for; None: not known.
    """
    size = int(entries["length"].sum()) + FRAMING * len(entries)
    told = _UNKNOWN if classes is None else classes
    body = _INDEX_HEADER.pack(_INDEX_MAGIC, size, len(entries), told) + entries.tobytes()
    return body + FOOTER.pack(masked_crc(body))


def unpack_index(content: bytes, shard_size: int) -> Index | None:
    """Returns the index of a shard, or None if the content is damaged or of another shard."""
    body, end = content[: -FOOTER.size], content[-FOOTER.size :]
    if len(body) < _INDEX_HEADER.size or end != FOOTER.pack(masked_crc(body)):
        return None
    magic, size, count, classes = _INDEX_HEADER.unpack_from(body)
    if (magic, size) != (_INDEX_MAGIC, shard_size):
        return None
    if len(body) != _INDEX_HEADER.size + INDEX_ENTRY.itemsize * count:
        return None
    entries = np.frombuffer(body, INDEX_ENTRY, offset=_INDEX_HEADER.size)
    # Compared one by one first, as a sum of large numbers is taken modulo 2^64.
    if (entries["length"] > min(size, MAX_RECORD_BYTES)).any():
        return None
    if entries["length"].sum() + FRAMING * count != size:
        return None
    return Index(entries, None if classes == _UNKNOWN else classes)


def scan(path: str, size: int) -> np.ndarray:
    """Returns the entries [records] of `INDEX_ENTRY` of a shard, read from its records' framing.

    Args:
      path: of the shard.
      size: of the shard, in bytes.

    Raises:
      UserError: a header's checksum fails, or the last record is cut off.
      UnreachableError: a store doesn't answer.
    """
    if storage.is_remote(path):
        return storage.persistently(path, _scan, path, size)
    return _scan(path, size)


def _scan(path: str, size: int) -> np.ndarray:
    with _open(path) as file:
        return np.fromiter(_framings(file, path, size), INDEX_ENTRY)


def _open(path: str) -> BinaryIO:
    if storage.is_remote(path):
        return storage.filesystem(path).open(path, "rb")
    return open(path, "rb", buffering=0)


def _framings(file: BinaryIO, path: str, size: int) -> Iterator[tuple[int, int]]:
    """Yields length and checksum of each record; a footer is read with the header that follows."""
    record, offset = 0, 0
    header = file.read(HEADER.size)
    while offset < size:
        length = _checked_length(header, path, record)
        offset += length + FRAMING
        if offset > size:
            raise _cut_off(path, record)
        file.seek(offset - FOOTER.size)
        both = file.read(FRAMING)
        if len(both) < FOOTER.size:
            raise _cut_off(path, record)
        yield length, FOOTER.unpack_from(both)[0]
        header = both[FOOTER.size :]
        record += 1


def _checked_length(header: bytes, path: str, record: int) -> int:
    if len(header) < HEADER.size:
        raise _cut_off(path, record)
    length, crc = HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        if record == 0 and header[:2] == b"\x1f\x8b":
            raise UserError(f"{path} is compressed: decompress it with gzip -d.")
        raise UserError(
            f"{path} is damaged at record {record} (the checksum of its length fails), or is no"
            " TFRecord file: copy or build the shard again."
        )
    if length > MAX_RECORD_BYTES:
        raise UserError(
            f"{path} states {length:,} bytes for record {record}, more than the"
            f" {MAX_RECORD_BYTES:,} that one may have: build the shard again."
        )
    return length


def _cut_off(path: str, record: int) -> UserError:
    return UserError(f"{path} is cut off in record {record}: copy or build the shard again.")


def find_shards(directory: str, split: str) -> dict[str, int]:
    """Returns path and size of each shard of a split, in order.

    Raises:
      UserError: there are none, one is missing, or there are several data sets' or builds'.
    """
    found = storage.sizes(directory)
    matches = [m for m in map(_SHARD_NAME.fullmatch, sorted(found)) if m]
    splits = sorted({m["split"] for m in matches})
    matches = [m for m in matches if m["split"] == split]
    if not matches:
        held = f"it has {', '.join(splits)}" if splits else "build them with data_pipelines.build"
        raise UserError(f"{directory} has no shards of the split {split!r}: {held}.")
    builds = {(m["name"], int(m["shards"])) for m in matches}
    if len(builds) > 1:
        kinds = " and ".join(shard_name(n, split, 0, c) for n, c in sorted(builds))
        raise UserError(f"{directory} has shards of several builds ({kinds}): keep one of them.")
    ((name, shards),) = builds
    wanted = [shard_name(name, split, i, shards) for i in range(shards)]
    missing = [n for n in wanted if n not in found]
    if missing:
        raise UserError(
            f"{directory} lacks {len(missing)} of {shards} shards, the first of them"
            f" {missing[0]}: copy or build it again."
        )
    return {storage.join(directory, n): found[n] for n in wanted}


class TFRecordSource:
    """The records of some shards, read at random: a source for `grain.MapDataset`.

    Opens files when they are read and in each process for itself (`open_files`), so that it can be
    pickled; reads from several threads at once are safe. A local shard that is not the file it was
    when the source was made, by its size and time of change, or was removed, is refused. Behind a
    URL each read asks for one range, and a shard of other content shows by its checksums.
    """

    def __init__(self, shards: Mapping[str, int], verify: bool = True):
        """Opens shards, reading their indexes, or their record headers where an index is unfit.

        Args:
          shards: path (or URL) and size in bytes of each shard, in order; see `find_shards`.
          verify: whether each record's data is checked against its checksum. Its length is checked
            always.

        Raises:
          UserError: a shard is damaged or no TFRecord file.
        """
        self._paths = list(shards)
        self._sizes = list(shards.values())
        self._times = [0 if storage.is_remote(path) else _time_of_change(path) for path in shards]
        self._verify = verify
        indexes = [load_index(path, size) for path, size in shards.items()]
        self._classes = [index.classes for index in indexes]
        entries = [index.entries for index in indexes]
        self._first = np.cumsum([0] + [len(n) for n in entries]).tolist()
        joined = np.concatenate([np.zeros(0, INDEX_ENTRY), *entries])
        self._lengths, self._crcs = joined["length"].astype(np.int64), joined["crc"].copy()
        framed = [n["length"].astype(np.int64) + FRAMING for n in entries]
        offsets = [np.cumsum(n) - n for n in framed]
        self._offsets = np.concatenate([np.zeros(0, np.int64), *offsets])
        self._own_files()

    def _own_files(self) -> None:
        self._owner = object()
        weakref.finalize(self, OPEN_FILES.close, self._owner).atexit = False

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def paths(self) -> list[str]:
        """The shards, in order."""
        return self._paths

    @property
    def shard_lengths(self) -> list[int]:
        """Number of records in each shard."""
        return np.diff(self._first).tolist()

    @property
    def classes(self) -> list[int | None]:
        """How many classes the labels of each shard ask for, by its index; None: not known."""
        return self._classes

    def records_of(self, shard: int) -> range:
        """Returns the indices of the records of a shard."""
        return range(self._first[shard], self._first[shard + 1])

    @property
    def digest(self) -> str:
        """Of the length and stored checksum of each record in order, 32 hexadecimal digits.

        It is the same wherever the shards lie, with indexes or without, and another one after any
        record was changed, added, removed or moved.
        """
        rows = np.stack([self._lengths, self._crcs], axis=1).astype("<u4")
        return hashlib.blake2b(rows.tobytes(), digest_size=16).hexdigest()

    def shards_of(self, records: np.ndarray) -> np.ndarray:
        """Returns the number of the shard of each record, int64 [n]."""
        return np.searchsorted(self._first, records, side="right") - 1

    def __getitem__(self, record: int) -> bytes:
        """Returns the data of one record.

        Raises:
          IndexError: there is no such record.
          UserError: it is damaged, or its shard is not what it was when the source was made.
        """
        shard, number = self._locate(record)
        offset, length = int(self._offsets[record]), int(self._lengths[record])
        path = self._paths[shard]
        header, data, footer = self._read(shard, offset, length)
        try:
            self._check(path, number, record, (header, data, footer))
        except UserError:
            if storage.is_remote(path) and storage.size(path) != self._sizes[shard]:
                raise _replaced(path) from None
            raise
        return data

    def _check(
        self, path: str, number: int, record: int, framed: tuple[bytes, bytes, bytes]
    ) -> None:
        """Compares a record as it was read, `number` of its shard, with what it should be."""
        header, data, footer = framed
        if len(footer) < FOOTER.size:
            raise _cut_off(path, number)
        if _checked_length(header, path, number) != self._lengths[record]:
            raise _of_another_shard(path, number, "length")
        if self._verify and footer != FOOTER.pack(masked_crc(data)):
            raise UserError(
                f"{path} is damaged in record {number} (its checksum fails): copy or build the"
                " shard again."
            )
        if self._verify and footer != FOOTER.pack(self._crcs[record]):
            raise _of_another_shard(path, number, "checksum")

    def name(self, record: int) -> str:
        """Returns the shard of a record and its number there, for an error message."""
        shard, number = self._locate(record)
        return f"{self._paths[shard]}, record {number},"

    def _locate(self, record: int) -> tuple[int, int]:
        if not 0 <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        shard = bisect.bisect_right(self._first, record) - 1
        return shard, int(record - self._first[shard])

    def _read(self, shard: int, offset: int, length: int) -> tuple[bytes, bytes, bytes]:
        """Returns header, data and footer of a record."""
        path = self._paths[shard]
        if storage.is_remote(path):
            end = offset + length + FRAMING
            block = storage.read_range(path, offset, end)
            split = HEADER.size + length
            return block[: HEADER.size], block[HEADER.size : split], block[split:]
        try:
            with OPEN_FILES.opened(self._owner, shard, path) as descriptor:
                framed = _read_framed(descriptor, offset, length)
                now = os.fstat(descriptor)  # after the read: of the file that was read, as it was
        except OSError as error:
            raise _cannot_read(path, error) from None
        told = (self._sizes[shard], self._times[shard])
        if (now.st_size, now.st_mtime_ns) != told or not now.st_nlink:
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
    return file_error(error, f"{path} can't be opened: {error.strerror}.")


def _cannot_read(path: str, error: OSError) -> UserError:
    if error.filename is not None:  # as `os.open` has it, and reads of what is open have not
        return _cannot_open(path, error)
    return file_error(error, f"{path} can't be read: {error.strerror}.")


def _replaced(path: str) -> UserError:
    return UserError(
        f"{path} was replaced or removed while in use: put it back, or start the run again."
    )


def _of_another_shard(path: str, number: int, what: str) -> UserError:
    return UserError(
        f"{path} does not match its index {path}{INDEX_SUFFIX} (record {number} has another"
        f" {what}), as one of them was replaced: delete the index and start again."
    )


def _read_framed(descriptor: int, offset: int, length: int) -> tuple[bytes, bytes, bytes]:
    """Returns header, data and footer; three reads cost less than copying the data out of one."""
    middle = offset + HEADER.size
    return (
        os.pread(descriptor, HEADER.size, offset),
        os.pread(descriptor, length, middle),
        os.pread(descriptor, FOOTER.size, middle + length),
    )


def load_index(path: str, size: int) -> Index:
    """Returns the index of a shard, made from its records' framing where it has none that is fit.

    Args:
      path: of the shard.
      size: of the shard, in bytes.

    Raises:
      UserError: the shard has to be scanned and is damaged or no TFRecord file.
    """
    longest = _INDEX_HEADER.size + INDEX_ENTRY.itemsize * (size // FRAMING) + FOOTER.size
    try:
        index = unpack_index(storage.read(path + INDEX_SUFFIX, longest + 1), size)
    except FileNotFoundError:
        index = None
    return index or Index(scan(path, size))
