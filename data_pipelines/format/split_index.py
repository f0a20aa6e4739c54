"""The index of a split: size, number of records and digest of each of its shards.

With it, one read opens a split. The index of each shard (`shard_index`) is read later, with the
first record of the shard. `NAME-SPLIT.index` contains
    8 bytes "XKDSPLT1" | uint64 shards | 16 bytes digest of the split |
    uint64 size in bytes, uint64 records, uint64 classes and 16 bytes digest, for each shard |
    uint32 masked CRC-32C of all bytes before
with little-endian numbers, and `classes` as in `shard_index`. A digest is BLAKE2b of length and
masked CRC-32C of the data, uint32 each, of each record in order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_pipelines.errors import file_error
from data_pipelines.format import shard_index, shard_names, storage, tfrecord

# Of a shard. `classes` is `shard_index.UNKNOWN` if unknown.
SHARD = np.dtype([("size", "<u8"), ("records", "<u8"), ("classes", "<u8"), ("digest", "V16")])
# Indexes of remote shards that are requested at the same time, as each takes a round trip.
INDEXES_AT_ONCE = 32
# Largest number of queued requests, which bounds the memory of indexes that wait for an earlier
# one.
_QUEUED = 32 * INDEXES_AT_ONCE
_DIGEST_BYTES = 16
_MAGIC = b"XKDSPLT1"
_HEADER = struct.Struct(f"<8sQ{_DIGEST_BYTES}s")
# Shards are numbered by at most nine digits.
_MOST_SHARDS = 10**9


@dataclasses.dataclass(frozen=True, eq=False)
class SplitIndex:
    """Sizes, numbers of records and digests of all shards of a split.

    Attributes:
      shards: array [shards] of `SHARD`, in order.
      digest: of all records in order, 32 hexadecimal digits; of joined splits, a digest of their
        digests.
      files: (path, number of its shards) of each file that it was read from, in order; without a
        path if it was made from the shards' indexes, and () if all were.
    """

    shards: np.ndarray
    digest: str
    files: tuple[tuple[str, int], ...] = ()

    def file_of(self, shard: int) -> str:
        """Returns the path of the file that describes a shard, "" if it was made from its index."""
        for path, shards in self.files:
            if shard < shards:
                return path
            shard -= shards
        return ""


def joined(
    shards: Mapping[str, int],
    splits: Sequence[tuple[int, SplitIndex | None]],
    keep: Callable[[int, np.ndarray], object] | None = None,
) -> SplitIndex:
    """Returns the index of splits that are read one after the other.

    Args:
      shards: {path or URL: size in bytes} of the shards of all splits, in order.
      splits: (number of shards, index) of each, at least one; without an index (None), it is made
        by `scan`.
      keep: as in `scan`, for the splits without an index.

    Raises:
      UserError, UnreachableError: as `scan`.
    """
    indexes, first = list[SplitIndex](), 0
    for count, index in splits:
        if index is None:
            scanned = dict(itertools.islice(shards.items(), first, first + count))
            index = scan(scanned, keep, first)
        indexes.append(index)
        first += count
    if len(indexes) == 1:
        return indexes[0]
    digests = b"".join(bytes.fromhex(index.digest) for index in indexes)
    return SplitIndex(
        np.concatenate([index.shards for index in indexes]),
        hashlib.blake2b(digests, digest_size=_DIGEST_BYTES).hexdigest(),
        tuple(file for i in indexes for file in i.files or (("", len(i.shards)),)),
    )


def path_of(directory: str, name: str, split: str) -> str:
    """Returns the path of the index of a split.

    Args:
      directory: folder or URL of the data set.
      name: of the data set, see `Metadata.name`.
      split: name of the split.
    """
    return storage.join(directory, f"{name}-{split}.index")


def shard_paths(directory: str, name: str, split: str, shards: int) -> list[str]:
    """Returns the paths of the shards of a split, in order.

    Args:
      directory: folder or URL of the data set.
      name: of the data set.
      split: name of the split.
      shards: number of its shards.
    """
    names = (shard_names.shard_name(name, split, i, shards) for i in range(shards))
    return [storage.join(directory, shard) for shard in names]


def pack(index: SplitIndex) -> bytes:
    """Returns the bytes of the file of an index."""
    header = _HEADER.pack(_MAGIC, len(index.shards), bytes.fromhex(index.digest))
    body = header + index.shards.astype(SHARD).tobytes()
    return body + tfrecord.FOOTER.pack(tfrecord.masked_crc(body))


def unpack(content: bytes, path: str = "") -> SplitIndex | None:
    """Returns the index in the content of a file, or None if it is damaged.

    Args:
      content: bytes of the file.
      path: of the file.
    """
    body, end = content[: -tfrecord.FOOTER.size], content[-tfrecord.FOOTER.size :]
    if len(body) < _HEADER.size or end != tfrecord.FOOTER.pack(tfrecord.masked_crc(body)):
        return None
    magic, count, digest = _HEADER.unpack_from(body)
    if magic != _MAGIC or count > _MOST_SHARDS:
        return None
    if len(body) != _HEADER.size + SHARD.itemsize * count:
        return None
    shards = np.frombuffer(body, SHARD, offset=_HEADER.size)
    # A record takes bytes of its shard, so sums of either can't overflow.
    if (shards["size"] >= 2**48).any():
        return None
    if (shards["records"] > shards["size"] // tfrecord.FRAMING).any():
        return None
    return SplitIndex(shards, digest.hex(), ((path, count),))


def load(directory: str, name: str, split: str, shards: int) -> SplitIndex | None:
    """Returns the index of a split, or None if it is missing, damaged or of other shards.

    Args:
      directory: folder or URL of the data set.
      name: of the data set.
      split: name of the split.
      shards: number of its shards.

    Raises:
      UserError: the file can't be read.
    """
    path = path_of(directory, name, split)
    size = _HEADER.size + SHARD.itemsize * shards + tfrecord.FOOTER.size
    try:
        index = unpack(storage.read(path, size + 1), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise file_error(
            error, f"{path} can't be read ({error.strerror}): check its permissions and its disk."
        ) from None
    return index if index is not None and len(index.shards) == shards else None


def write(directory: str, name: str, split: str, sizes: list[int]) -> SplitIndex:
    """Writes the index of a split from the indexes of its shards, and returns it.

    Args:
      directory: folder or URL of the data set.
      name: of the data set.
      split: name of the split.
      sizes: of its shards, in bytes, in order.

    Raises:
      UserError: a shard is damaged or not a TFRecord file.
      UnreachableError: remote storage does not respond.
    """
    paths = shard_paths(directory, name, split, len(sizes))
    index = scan(dict(zip(paths, sizes, strict=True)))
    storage.write(path_of(directory, name, split), pack(index))
    return index


def digest_of(entries: np.ndarray) -> bytes:
    """Returns the digest of records, 16 bytes.

    Args:
      entries: array [records] of `shard_index.ENTRY`.
    """
    return hashlib.blake2b(_rows(entries), digest_size=_DIGEST_BYTES).digest()


def _rows(entries: np.ndarray) -> bytes:
    rows = np.empty((len(entries), 2), "<u4")
    # A length has 32 bits, as `MAX_RECORD_BYTES` does.
    rows[:, 0], rows[:, 1] = entries["length"], entries["crc"]
    return rows.tobytes()


def scan(
    shards: Mapping[str, int],
    keep: Callable[[int, np.ndarray], object] | None = None,
    first: int = 0,
) -> SplitIndex:
    """Returns the index of shards from their own indexes, one after the other.

    Args:
      shards: {path or URL: size in bytes}, in order.
      keep: called with the number of each shard and its array [records] of `shard_index.ENTRY`.
      first: number of the first shard.

    Raises:
      UserError: a shard is damaged or not a TFRecord file.
      UnreachableError: remote storage does not respond.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    found = np.zeros(len(shards), SHARD)
    found["size"] = list(shards.values())
    for number, index in enumerate(_indexes(shards)):
        rows, entries = _rows(index.entries), found[number]
        digest.update(rows)
        entries["records"] = len(index.entries)
        entries["classes"] = shard_index.UNKNOWN if index.classes is None else index.classes
        entries["digest"] = hashlib.blake2b(rows, digest_size=_DIGEST_BYTES).digest()
        if keep:
            keep(first + number, index.entries)
    return SplitIndex(found, digest.hexdigest())


def _indexes(shards: Mapping[str, int]) -> Iterator[shard_index.Index]:
    """Yields the index of each shard, in order; reads those of remote shards in threads."""
    if not any(map(storage.is_remote, shards)):
        yield from map(shard_index.load, shards, shards.values())
        return
    paths, sizes = list(shards), list(shards.values())
    pool = ThreadPoolExecutor(INDEXES_AT_ONCE, "read-indexes")
    try:
        for start in range(0, len(paths), _QUEUED):
            part = slice(start, start + _QUEUED)
            yield from pool.map(shard_index.load, paths[part], sizes[part])
    finally:
        pool.shutdown(cancel_futures=True)
