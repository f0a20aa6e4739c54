"""Temporary storage for the records of one file, between the worker process and the shard.

Up to `MAX_BYTES` of records are held in memory, and more in a temporary file, so that the memory
for a long file is bounded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, overload

from data_pipelines.errors import UnreachableError

# Bytes of records of a file that are held in memory.
MAX_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class StoredRecords(Sequence[bytes]):
    """Records in a temporary file, which are read one at a time.

    Attributes:
      path: of the file.
      lengths: bytes of each record.
    """

    path: str
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        with open(self.path, "rb") as file:
            file.seek(sum(self.lengths[:number]))
            return file.read(self.lengths[number])

    def __iter__(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            for length in self.lengths:
                yield file.read(length)


class RecordCollector:
    """Collects the records of a file. Use as a context manager.

    An exception removes the temporary file.
    """

    def __init__(self, directory: str | None):
        """Creates an empty collection.

        Args:
          directory: folder for a temporary file; None: all records are held in memory.
        """
        self._directory = directory
        self._held: list[bytes] = []
        self._lengths: list[int] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> RecordCollector:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file:
            self._file.close()
            if kind is not None:
                os.remove(self._file.name)

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, record: bytes) -> None:
        """Adds the next record.

        Raises:
          UnreachableError: the temporary file can't be written.
        """
        self._held.append(record)
        self._lengths.append(len(record))
        if self._directory is not None and sum(map(len, self._held)) > MAX_BYTES:
            self._write_held(self._directory)

    def _write_held(self, directory: str) -> None:
        try:
            if self._file is None:
                self._file = tempfile.NamedTemporaryFile(dir=directory, delete=False)  # noqa: SIM115
            self._file.writelines(self._held)
            self._file.flush()
        except OSError as error:
            raise UnreachableError(
                f"{directory} can't store temporary files of records ({error.strerror})"
            ) from None
        self._held.clear()

    def finish(self) -> Sequence[bytes]:
        """Returns the records: a tuple, or `StoredRecords`, which need a `discard` at the end.

        Raises:
          UnreachableError: the temporary file can't be written.
        """
        if self._file is None or self._directory is None:
            return tuple(self._held)
        self._write_held(self._directory)
        return StoredRecords(self._file.name, tuple(self._lengths))


def bytes_in_memory(records: Sequence[bytes]) -> int:
    """Returns the bytes of records in memory: 0 for `StoredRecords`."""
    return 0 if isinstance(records, StoredRecords) else sum(map(len, records))


def total_bytes(records: Sequence[bytes]) -> int:
    """Returns the bytes of records, without reading those in a file."""
    return sum(records.lengths) if isinstance(records, StoredRecords) else bytes_in_memory(records)


def discard(records: Sequence[bytes]) -> None:
    """Removes the temporary file of `StoredRecords`."""
    if isinstance(records, StoredRecords):
        with contextlib.suppress(FileNotFoundError):
            os.remove(records.path)
