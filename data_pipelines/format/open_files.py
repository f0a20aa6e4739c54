"""A cache of descriptors of files that a process reads, within its limit of open files.

`ulimit -n` is 256 on macOS and may be as low in a container, while a data set has thousands of
shards. All readers of a process share one cache, which closes the least recently used files.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import itertools
import os
import resource
import threading
from collections.abc import Iterator

# Files kept open: this fraction of the process' limit, within the two bounds.
_FRACTION = 1 / 8
_FEWEST, _MOST = 4, 256
# Descriptors that a process needs besides the files of `allow`.
_RESERVED = 64

# (owner of the file, its number among the owner's files)
_Key = tuple[object, int]


@dataclasses.dataclass
class _File:
    descriptor: int
    users: int = 1


class OpenFiles:
    """A least-recently-used cache of file descriptors. Thread-safe.

    A descriptor in use is never closed, so more than the limit may be open: at most one per thread.
    """

    def __init__(self) -> None:
        self._reset()

    def after_fork(self) -> None:
        """Closes all files in a forked child; the lock may be held by a thread of the parent."""
        for file in self._files.values():
            os.close(file.descriptor)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[_Key, _File] = collections.OrderedDict()
        # Owners whose files are to be closed; filled without the lock.
        self._gone: collections.deque[object] = collections.deque()

    def __len__(self) -> int:
        return len(self._files)

    @contextlib.contextmanager
    def opened(self, owner: object, number: int, path: str) -> Iterator[int]:
        """Yields a descriptor for reading a file.

        Args:
          owner: of the file; hashable. See `close`.
          number: of the file among the owner's files.
          path: of the file.

        Raises:
          OSError: the file can't be opened.
        """
        key = (owner, number)
        file = self._take(key) or self._put(key, self._open(path))
        try:
            yield file.descriptor
        finally:
            with self._lock:
                file.users -= 1
                self._close_some()

    def close(self, owner: object) -> None:
        """Closes the files of an owner, now or at the next use of the cache.

        Safe to call from a finalizer, which may run within another method.
        """
        self._gone.append(owner)
        if self._lock.acquire(blocking=False):
            try:
                self._close_some()
            finally:
                self._lock.release()

    def _take(self, key: _Key) -> _File | None:
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                file.users += 1
                self._files.move_to_end(key)
            return file

    def _put(self, key: _Key, descriptor: int) -> _File:
        """Adds an open file, or closes it if another thread has added the same file."""
        with self._lock:
            file = self._files.setdefault(key, _File(descriptor, users=0))
            file.users += 1
            if file.descriptor != descriptor:
                os.close(descriptor)
            return file

    def _open(self, path: str) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        with self._lock:
            self._close_some(kept=0)  # other code of the process uses up the descriptors
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _close_some(self, kept: int | None = None) -> None:
        """Closes unused files: of closed owners, and those beyond `kept` (None: the limit)."""
        while self._gone:
            owner = self._gone.popleft()
            for key in [key for key in self._files if key[0] is owner]:
                if not self._files[key].users:
                    os.close(self._files.pop(key).descriptor)
        excess = len(self._files) - (limit() if kept is None else kept)
        if excess > 0:
            idle = (key for key, file in self._files.items() if not file.users)
            for key in list(itertools.islice(idle, excess)):
                os.close(self._files.pop(key).descriptor)


def limit() -> int:
    """Returns the number of files that the cache keeps open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST if soft == resource.RLIM_INFINITY else int(soft * _FRACTION)
    return min(max(allowed, _FEWEST), _MOST)


def allow(count: int) -> bool:
    """Raises the soft limit of open files, up to the hard limit, for `count` more files.

    Returns:
      Whether the limit now suffices.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _RESERVED
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return True
    if hard != resource.RLIM_INFINITY and needed > hard:
        return False
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower, undocumented limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return True
    return False


# The cache of this process.
OPEN_FILES = OpenFiles()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OPEN_FILES.after_fork)
