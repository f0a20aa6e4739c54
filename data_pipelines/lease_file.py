"""The file of a lease in a folder, on any file system where exclusive creation is atomic."""

from __future__ import annotations

import contextlib
import hashlib
import os
from io import FileIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_pipelines.lease import Watch

_ROOM = 64  # bytes by which the file's content may grow


class LeaseFile:
    """The file, which one process creates, rewrites in place and removes."""

    def __init__(self, folder: str, name: str):
        """Creates an object without reading or writing.

        Args:
          folder: path of the folder.
          name: of the file.
        """
        self._folder, self._name = folder, name
        self._path = os.path.join(folder, name)
        self._size = 0
        self._file: FileIO | None = None

    def prepare(self) -> None:
        """Creates the folder if it is missing."""
        os.makedirs(self._folder, exist_ok=True)

    def read(self) -> bytes | None:
        """Returns the content of the file; None if there is none."""
        return _read(self._path)

    def take(self, mine: bytes, watch: Watch) -> bool:
        """Tries once to write the file; returns whether it succeeded.

        Args:
          mine: content to write.
          watch: observes the file of another holder.
        """
        content = self.read()
        if content is None:
            return self._create(self._path, mine)
        if not watch.is_over(content):
            return False
        claim = f"{self._path}.{hashlib.blake2b(content, digest_size=8).hexdigest()}"
        if not self._create(claim, mine):
            # Another process is taking over, or was killed while doing so.
            if watch.claim.is_over(_read(claim) or b""):
                _remove(claim)
            return False
        if self.read() != content:
            _remove(claim)
            return False
        with contextlib.suppress(FileNotFoundError):  # this claim has expired and was removed
            os.rename(claim, self._path)
        return self.read() == self._padded(mine)

    def clean(self) -> None:
        """Removes the files of processes that were killed while taking over."""
        for name in os.listdir(self._folder):
            if name.startswith(f"{self._name}."):
                _remove(os.path.join(self._folder, name))

    def renew(self, content: bytes) -> None:
        """Rewrites the file through its descriptor, as the name may be another file's now."""
        assert self._file is not None
        self._file.seek(0)
        self._file.write(self._padded(content))
        os.fsync(self._file.fileno())

    def release(self) -> None:
        """Removes the file, which must be this process'."""
        os.remove(self._path)

    def close(self) -> None:
        """Closes the descriptor."""
        if self._file is not None:
            self._file.close()

    def _padded(self, content: bytes) -> bytes:
        self._size = self._size or len(content) + _ROOM
        return content.ljust(self._size)

    def _create(self, path: str, content: bytes) -> bool:
        """Creates a file; returns False if it exists already."""
        try:
            file = open(path, "xb", buffering=0)  # noqa: SIM115, as it stays open
        except FileExistsError:
            return False
        try:
            file.write(self._padded(content))
            os.fsync(file.fileno())
        except BaseException:
            file.close()
            _remove(path)
            raise
        self.close()
        self._file = file
        return True


def _read(path: str) -> bytes | None:
    """Returns the content of a file; None if there is no such file."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
