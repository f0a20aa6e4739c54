"""Leases on folders: one process at a time writes there, on this machine or on another one.

The file `.lease` in a folder names the process that may write there; it is removed in the end. The
holder changes it every few seconds. Another process may follow when the holder is a process of the
same machine that has ended, or when the file has stayed the same for `EXPIRY` seconds by the clock
of the process that watches: clocks of two machines are never compared.

No file system's locks are needed, as of several processes that create a file which must not exist
one alone succeeds, on network file systems as well. Where there is no `.lease`, a process creates
it. To replace the file of a holder that has ended, a process first creates `.lease.DIGEST`, of that
file's content; then it makes sure that this is still the content, and renames its own file.

A process that was stopped for longer than the expiry (SIGSTOP, a suspended machine) may lose its
lease, and has to ask (`Lease.check`) before it writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO

from data_pipelines.errors import EXIT_FAILURE, LostProcessError, UserError, file_error
from data_pipelines.holder import Holder

FILE = ".lease"
# Seconds after which a file that stays the same is no holder's any more, between two changes of
# it, for which a holder that is alive is waited for (it may be about to end), and between two
# looks.
EXPIRY = 60.0
HEARTBEAT = 10.0
PATIENCE = 15.0
POLL = 0.5
_ROOM = 64  # bytes by which a file's content may grow


class LeaseHeldError(UserError):
    """Another process writes to the folder; it may end soon."""

    status = EXIT_FAILURE


class LeaseLostError(UserError):
    """Another process has taken the folder over, or may do so."""

    status = EXIT_FAILURE


class Lease:
    """One process' lease on a folder. Safe to use from several threads."""

    def __init__(self, folder: str | os.PathLike[str]):
        """Names the folder; nothing is read.

        Args:
          folder: of this machine, not a URL; made where missing.
        """
        self.folder = os.fspath(folder)
        self._path = os.path.join(self.folder, FILE)
        self._mine = Holder.this_process()
        self._size = len(self._mine.content()) + _ROOM
        self._file: FileIO | None = None
        self._writing = threading.Lock()
        self._ended = threading.Event()

    @property
    def token(self) -> str:
        """Random text that names this lease; it is in the folder while the lease is held."""
        return self._mine.token

    def acquire(
        self,
        busy: str,
        remedy: str,
        patience: float | None = None,
        waiting: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Takes the lease, and keeps it in a thread until it is released or the process ends.

        Args:
          busy: begins the sentence where another process holds it.
          remedy: ends that sentence.
          patience: seconds to wait for a holder that is alive (infinite: as long as it takes;
            None: `PATIENCE`). One that gives no sign of life is waited for until it expires.
          waiting: given a line of text once, if another process holds the lease.

        Raises:
          LeaseHeldError: another process holds it, and is alive.
          UserError: the folder can't be made or written to; `UnreachableError` where that may pass.
        """
        patience = PATIENCE if patience is None else patience
        watch = _Watch()
        try:
            os.makedirs(self.folder, exist_ok=True)
            while not self._try(watch):
                who = _named(watch.holder)
                if watch.is_alive and watch.waited >= patience:
                    raise LeaseHeldError(f"{busy}{who}: {remedy}")
                if watch.looks == 2:  # the first look at a process that is just ending says little
                    waiting(f"waiting   for another process{who} in {self.folder}")
                time.sleep(POLL)
            for name in os.listdir(self.folder):  # of processes that were killed as they followed
                if name.startswith(f"{FILE}."):
                    _remove(os.path.join(self.folder, name))
        except OSError as error:
            raise file_error(
                error, f"{self.folder} can't be written to ({error.strerror}): make room, or give"
                " a folder that can be.", writing=True,
            ) from None  # fmt: skip
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def check(self) -> None:
        """Makes sure that this process still holds the lease; to be called before writing.

        Raises:
          LeaseLostError: it doesn't, as it was stopped for too long.
          UserError: the folder can't be read; `UnreachableError` where that may pass.
        """
        try:
            content = _read(self._path)
        except OSError as error:
            raise file_error(
                error, f"{self.folder} can't be read any more ({error.strerror}): mend that and"
                " give the same command again.",
            ) from None  # fmt: skip
        if content is None:
            raise LeaseLostError(
                f"{self._path} was removed while in use: give the same command again, and leave"
                " that file alone."
            )
        holder = Holder.parse(content)
        if holder is None or holder.token != self.token:
            raise LeaseLostError(
                f"{self.folder} was taken over by another process{_named(holder)}, as this one gave"
                f" no sign of life for {EXPIRY:g} s: it ends without writing there any more."
            )

    def holder(self) -> Holder | None:
        """Who holds the lease now, as this process sees the folder; None: nobody is known to."""
        try:
            return Holder.parse(_read(self._path) or b"")
        except OSError:
            return None

    def release(self) -> None:
        """Lets another process have the lease; it is no fault if the file can't be removed."""
        self._ended.set()
        if (holder := self.holder()) and holder.token == self.token:
            with contextlib.suppress(OSError):
                os.remove(self._path)
        with self._writing, contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()

    def _try(self, watch: _Watch) -> bool:
        """Looks once, and takes the lease if it may; whether it has."""
        content = _read(self._path)
        if content is None:
            return self._create(self._path)
        if not watch.is_over(content):
            return False
        claim = f"{self._path}.{hashlib.blake2b(content, digest_size=8).hexdigest()}"
        if not self._create(claim):
            # Somebody else is about to follow, or was killed just there.
            if watch.claim.is_over(_read(claim) or b""):
                _remove(claim)
            return False
        if _read(self._path) != content:
            _remove(claim)
            return False
        with contextlib.suppress(FileNotFoundError):  # this process was taken for dead meanwhile
            os.rename(claim, self._path)
        return (holder := self.holder()) is not None and holder.token == self.token

    def _create(self, path: str) -> bool:
        """Whether there was no such file; there is now, and it is this lease's."""
        try:
            file = open(path, "xb", buffering=0)  # noqa: SIM115, as it stays open
        except FileExistsError:
            return False
        try:
            file.write(self._content())
            os.fsync(file.fileno())
        except BaseException:
            file.close()
            _remove(path)
            raise
        if self._file is not None:
            self._file.close()
        self._file = file
        return True

    def _keep(self) -> None:
        """Changes the file now and then; by its descriptor, as the name may be another's soon."""
        while not self._ended.wait(HEARTBEAT):
            # What it means that this can't be done is found out by `check`.
            with self._writing, contextlib.suppress(OSError, ValueError):
                self._mine = dataclasses.replace(self._mine, beat=self._mine.beat + 1)
                assert self._file is not None
                self._file.seek(0)
                self._file.write(self._content())
                os.fsync(self._file.fileno())

    def _content(self) -> bytes:
        return self._mine.content().ljust(self._size)


class _Watch:
    """What one process has seen of another's file, by its own clock.

    Attributes:
      looks: how often it has looked.
      waited: seconds since the first look.
      holder: named by the file at the last look.
      is_alive: whether one holder has changed the file.
    """

    def __init__(self) -> None:
        self.looks, self.waited, self.is_alive = 0, 0.0, False
        self.holder: Holder | None = None
        self._content, self._same, self._last = b"", 0.0, time.monotonic()

    @functools.cached_property
    def claim(self) -> _Watch:
        """Another one, for the file of a process that is about to follow."""
        return _Watch()

    def is_over(self, content: bytes) -> bool:
        """Looks once more; whether the holder has ended or is taken to have."""
        now, before = time.monotonic(), self.holder
        # A pause of this process or of the storage is no silence of the holder's.
        passed, self._last = min(now - self._last, 2 * POLL), now
        self.looks, self.waited = self.looks + 1, self.waited + passed
        self._same = self._same + passed if content == self._content else 0.0
        self._content, self.holder = content, Holder.parse(content)
        if before is not None and self.holder is not None:
            self.is_alive |= before.token == self.holder.token and before != self.holder
        ended = self.holder is not None and self.holder.has_ended()
        return ended or self._same >= EXPIRY


@contextlib.contextmanager
def held(
    folder: str | os.PathLike[str],
    busy: str,
    remedy: str,
    patience: float | None = None,
    waiting: Callable[[str], object] = lambda line: None,
) -> Iterator[Lease]:
    """Holds the lease on a folder.

    `busy`, `remedy`, `patience` (in seconds) and `waiting` are those of `Lease.acquire`, and so are
    the errors.

    Raises:
      LeaseLostError: something went wrong, and the reason may be that the lease was lost.
    """
    lease = Lease(folder)
    lease.acquire(busy, remedy, patience, waiting)
    try:
        yield lease
    except Exception as error:
        try:
            lease.check()
        except LeaseLostError as loss:
            raise loss from error
        except UserError:
            pass
        # What others wait for may still be written until the process ends, and the lease with it.
        if not isinstance(error, LostProcessError):
            lease.release()
        raise
    except BaseException:
        lease.release()
        raise
    lease.release()


def _read(path: str) -> bytes | None:
    """A file's content; None: there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _named(holder: Holder | None) -> str:
    return f" ({holder})" if holder else ""
