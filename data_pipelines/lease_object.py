"""The object of a lease in a store, by conditional writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from data_pipelines.format import conditional, storage

if TYPE_CHECKING:
    from data_pipelines.lease import Watch

# Marks a released lease. Removing the object instead could remove another process's new lease.
_FREE = b"released"


class LeaseObject:
    """The object, which a write replaces only if it has not changed since the last access."""

    def __init__(self, folder: str, name: str, is_mine: Callable[[bytes], bool]):
        """Creates an object without reading or writing.

        Args:
          folder: URL of the folder.
          name: of the object.
          is_mine: whether a content was written by this lease.
        """
        self._folder, self._is_mine = folder, is_mine
        self._url = storage.join(folder, name)
        self._version: str | None = None

    def prepare(self) -> None:
        """Checks the store's guarantees."""
        conditional.require(self._folder)

    def read(self) -> bytes | None:
        """Returns the content of the object; None if there is none."""
        found = conditional.read(self._url)
        return None if found is None or found.content == _FREE else found.content

    def take(self, mine: bytes, watch: Watch) -> bool:
        """Tries once to write the object; returns whether it succeeded.

        Args:
          mine: content to write.
          watch: observes the object of another holder.
        """
        found = conditional.read(self._url)
        held = found is not None and found.content != _FREE
        if found is not None and held and not watch.is_over(found.content):
            return False
        self._version = conditional.write(self._url, mine, found.version if found else None)
        return self._version is not None

    def clean(self) -> None:
        """Does nothing: taking over leaves nothing behind."""

    def renew(self, content: bytes) -> None:
        """Replaces the object, unless another process has."""
        if (version := conditional.write(self._url, content, self._version)) is None:
            found = conditional.read(self._url)
            if found is None or not self._is_mine(found.content):
                return
            # An earlier renewal whose answer was lost.
            version = conditional.write(self._url, content, found.version)
        self._version = version or self._version

    def release(self) -> None:
        """Marks the lease as released, unless another process has it."""
        self.renew(_FREE)

    def close(self) -> None:
        """Does nothing."""
