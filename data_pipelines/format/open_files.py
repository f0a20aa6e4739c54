"""Files that a process keeps open for reading: no more than its limit of descriptors allows.

`ulimit -n` is 256 on macOS and may be as low in a container, while a data set has thousands of
shards. So all readers of a process share one set of open files; the one that was used longest ago
makes room for the next.
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

# At most this share of the descriptors that the process may have, and in all.
_FRACTION = 1 / 8
_FEWEST, _MOST = 4, 256
# Descriptors that a process needs for other things than the files of `allow`.
_RESERVED = 64

# The owner of a file, and the file's number among its owner's.
_Key = tuple[object, int]


@dataclasses.dataclass
class _File:
    descriptor: int
    users: int = 1


class OpenFiles:
    """Descriptors by a key, kept for their next use; safe to use from several threads.

    A descriptor that is in use is never closed: while more than the limit are, more are open, one
    a thread at most.
    """

    def __init__(self) -> None:
        self._reset()

    def after_fork(self) -> None:
        """Starts again without files in a process that was forked off, whoever had the lock."""
        for file in self._files.values():
            os.close(file.descriptor)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[_Key, _File] = collections.OrderedDict()
        # Owners whose files are to be closed; appended to where the lock can't be taken.
        self._gone: collections.deque[object] = collections.deque()

    def __len__(self) -> int:
        return len(self._files)

    @contextlib.contextmanager
    def opened(self, owner: object, number: int, path: str) -> Iterator[int]:
        """Yields a descriptor for reading a file.

        Args:
          owner: of the file; hashable. See `close`.
          number: of the file among its owner's.
          path: of the file, looked at when it is not open.

        Raises:
          OSError: it can't be opened.
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
        """Closes the files of an owner, now or with the next use of any; may be called anywhere.

        Also where garbage is collected, which may be in the middle of another call.
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
        """Keeps a file that was opened, or the one that another thread opened meanwhile."""
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
            self._close_some(most=0)  # others of the process have taken the descriptors
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _close_some(self, most: int | None = None) -> None:
        """Closes files that nobody uses: those of owners that are gone, and those too many."""
        while self._gone:
            owner = self._gone.popleft()
            for key in [key for key in self._files if key[0] is owner]:
                if not self._files[key].users:
                    os.close(self._files.pop(key).descriptor)
        excess = len(self._files) - (limit() if most is None else most)
        if excess > 0:
            idle = (key for key, file in self._files.items() if not file.users)
            for key in list(itertools.islice(idle, excess)):
                os.close(self._files.pop(key).descriptor)


def limit() -> int:
    """Returns how many files may stay open while nobody uses them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST if soft == resource.RLIM_INFINITY else int(soft * _FRACTION)
    return min(max(allowed, _FEWEST), _MOST)


def allow(count: int) -> bool:
    """Lets the process have that many files open at once, beside what it has; whether it may.

    The soft limit is raised where it has to be, up to the hard one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _RESERVED
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return True
    if hard != resource.RLIM_INFINITY and needed > hard:
        return False
    with contextlib.suppress(OSError, ValueError):  # macOS has a lower bound that it doesn't tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return True
    return False


# Of this process; each process opens files for itself.
OPEN_FILES = OpenFiles()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OPEN_FILES.after_fork)
