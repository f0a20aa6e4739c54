"""The index of a shard: length and checksum of each record, for random access.

Records lie in a shard without gaps, so their lengths determine their offsets. `SHARD.index`
contains
    8 bytes "XKDINDX2" | uint64 size of the shard | uint64 records | uint64 classes |
    uint64 length and uint32 masked CRC-32C of the data, for each record |
    uint32 masked CRC-32C of all bytes before
with little-endian numbers, where `classes` is the number of classes that the labels of the records
require, or 2^64 - 1 if unknown. A reader uses an index only if its checksum is right and its
lengths add up to the size of the shard; otherwise it reads lengths and checksums from the shard. An
index of layout 1 ("XKDINDX1"), without checksums of the data, is ignored.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import BinaryIO

import numpy as np

from data_pipelines.format import filesystems, storage, tfrecord
from data_pipelines.format.record_schema import MAX_RECORD_BYTES
from data_pipelines.format.retries import with_retries

SUFFIX = ".index"
# Of a record: length in bytes, and masked CRC-32C of the data.
ENTRY = np.dtype([("length", "<u8"), ("crc", "<u4")])
_MAGIC = b"XKDINDX2"
_HEADER = struct.Struct("<8sQQQ")
UNKNOWN = 2**64 - 1  # number of classes


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The content of an index.

    Attributes:
      entries: array [records] of `ENTRY`.
      classes: number of classes that the labels of the records require; None: unknown.
    """

    entries: np.ndarray
    classes: int | None = None


def pack(entries: np.ndarray, classes: int | None = None) -> bytes:
    """Returns the bytes of an index file.

    Args:
      entries: array [records] of `ENTRY`.
      classes: number of classes that the labels require; None: unknown.
    """
    size = int(entries["length"].sum()) + tfrecord.FRAMING * len(entries)
    stored = UNKNOWN if classes is None else classes
    body = _HEADER.pack(_MAGIC, size, len(entries), stored) + entries.tobytes()
    return body + tfrecord.FOOTER.pack(tfrecord.masked_crc(body))


def unpack(content: bytes, shard_size: int) -> Index | None:
    """Returns the index in an index file, or None if it is damaged or of another shard.

    Args:
      content: bytes of the file.
      shard_size: size of the shard, in bytes.
    """
    body, end = content[: -tfrecord.FOOTER.size], content[-tfrecord.FOOTER.size :]
    if len(body) < _HEADER.size or end != tfrecord.FOOTER.pack(tfrecord.masked_crc(body)):
        return None
    magic, size, count, classes = _HEADER.unpack_from(body)
    if (magic, size) != (_MAGIC, shard_size):
        return None
    if len(body) != _HEADER.size + ENTRY.itemsize * count:
        return None
    entries = np.frombuffer(body, ENTRY, offset=_HEADER.size)
    # Check each length first, as the sum could overflow.
    if (entries["length"] > min(size, MAX_RECORD_BYTES)).any():
        return None
    if entries["length"].sum() + tfrecord.FRAMING * count != size:
        return None
    return Index(entries, None if classes == UNKNOWN else classes)


def scan(path: str, size: int) -> np.ndarray:
    """Returns the array [records] of `ENTRY` of a shard, from the framing of its records.

    Args:
      path: of the shard.
      size: of the shard, in bytes.

    Raises:
      UserError: the shard is damaged or not a TFRecord file.
      UnreachableError: remote storage does not respond.
    """
    if storage.is_remote(path):
        return with_retries(path, _scan, path, size)
    return _scan(path, size)


def _scan(path: str, size: int) -> np.ndarray:
    with _open(path) as file:
        return np.fromiter(tfrecord.framings(file, path, size), ENTRY)


def _open(path: str) -> BinaryIO:
    if storage.is_remote(path):
        return filesystems.of(path).open(path, "rb")
    return open(path, "rb", buffering=0)


def load(path: str, size: int) -> Index:
    """Returns the index of a shard; without a valid index file, from the framing of its records.

    Args:
      path: of the shard.
      size: of the shard, in bytes.

    Raises:
      UserError: the index file is missing or invalid, and the shard is damaged or not a TFRecord
        file.
    """
    longest = _HEADER.size + ENTRY.itemsize * (size // tfrecord.FRAMING) + tfrecord.FOOTER.size
    try:
        index = unpack(storage.read(path + SUFFIX, longest + 1), size)
    except FileNotFoundError:
        index = None
    return index or Index(scan(path, size))
