"""The objects of a set of features in a bucket: each save adds the new rows as a part.

Arrays can't be extended or memory-mapped there, so each process has them in a local temporary
folder. The manifest lists the parts; other objects are ignored.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from data_pipelines.errors import UserError
from data_pipelines.format import storage

# A part: its first record, and the one after its last.
Part = tuple[int, int]


class FeatureObjects:
    """The parts of one set.

    Attributes:
      folder: local folder of the arrays, NAME.npy, removed with this object.
      parts: those in the arrays of `folder`.
    """

    def __init__(self, url: str):
        """Creates the local folder.

        Args:
          url: of the set.
        """
        self._url = url
        self._temporary = tempfile.TemporaryDirectory(prefix="features-")
        self.folder = Path(self._temporary.name)
        self.parts: list[Part] = []

    def add(self, arrays: Mapping[str, np.ndarray], part: Part) -> None:
        """Writes the rows of a part.

        Args:
          arrays: {name: whole array, [records, ...]}.
          part: the records.

        Raises:
          UnreachableError: the store does not respond.
        """
        for name, array in arrays.items():
            file = io.BytesIO()
            np.save(file, array[slice(*part)], allow_pickle=False)
            storage.write(self._object(name, part), file.getvalue())
        self.parts.append(part)

    def fetch(
        self, parts: Sequence[Sequence[int]], arrays: Mapping[str, tuple[list[int], str]]
    ) -> None:
        """Copies the parts that are not in the local folder yet.

        Args:
          parts: all of the set.
          arrays: {name: (shape, dtype)}.

        Raises:
          ValueError: a part is missing or is not an array of that shape.
          UserError: the local disk is full; `UnreachableError` if the store does not respond.
        """
        for first, last in parts:
            if (part := (int(first), int(last))) in self.parts:
                continue
            for name, (shape, dtype) in arrays.items():
                self._local(name, shape, dtype)[slice(*part)] = self._read(name, part)
            self.parts.append(part)

    def _local(self, name: str, shape: list[int], dtype: str) -> np.memmap:
        """Returns the local array, which the first call creates."""
        path = self.folder / f"{name}.npy"
        try:
            if path.exists():
                return open_memmap(path, "r+")
            array = open_memmap(path, "w+", np.dtype(dtype), tuple(shape))
            reserve(path)
        except OSError as error:
            raise UserError(
                f"The features in {self._url} can't be copied to {self.folder} ({error.strerror}):"
                " make room there, or set TMPDIR to a larger disk."
            ) from None
        return array

    def _read(self, name: str, part: Part) -> np.ndarray:
        try:
            content = storage.read(self._object(name, part))
        except FileNotFoundError:
            raise ValueError(f"{self._object(name, part)} is missing") from None
        return np.load(io.BytesIO(content), allow_pickle=False)

    def _object(self, name: str, part: Part) -> str:
        return storage.join(self._url, f"{part[0]:09}-{part[1]:09}.{name}.npy")


def reserve(path: Path) -> None:
    """Reserves a file's disk space.

    Without space, a write to a memory-mapped file would end the process by SIGBUS.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # it is not supported there
                raise
