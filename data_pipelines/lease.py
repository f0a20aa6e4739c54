"""Leases on folders: at most one process writes to a folder, across machines.

The file `.lease` in a folder names the process that may write there, the holder. The holder
rewrites it every few seconds and removes it at the end. Another process may take the lease over if
the holder is a process of the same machine that has ended, or if the file has not changed for
`EXPIRY` seconds by the clock of the waiting process. Clocks of machines are never compared.

File locks are not needed: exclusive creation of a file is atomic, also on network file systems. If
there is no `.lease`, a process creates it exclusively. To take over from an ended holder, a process
first creates `.lease.DIGEST`, with the digest of the old file's content, then checks that this
content is unchanged, and renames its own file to `.lease`. In a bucket (a URL), `.lease` is created
and replaced by conditional writes, and marked as released at the end.

A process that was stopped for longer than `EXPIRY` (SIGSTOP, a suspended machine) may lose its
lease. It must call `Lease.check` before it writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator

from data_pipelines import resumable_end
from data_pipelines.errors import EXIT_FAILURE, LostProcessError, UserError, file_error
from data_pipelines.format import storage
from data_pipelines.holder import Holder
from data_pipelines.lease_file import LeaseFile
from data_pipelines.lease_object import LeaseObject

FILE = ".lease"
# Seconds.
EXPIRY = 60.0  # without a change of the file, until the lease expires
HEARTBEAT = 10.0  # between two changes by the holder
PATIENCE = 15.0  # to wait for a running holder, which may be about to end
POLL = 0.5


class LeaseHeldError(UserError):
    """Another process holds the lease; it may end soon."""

    status = EXIT_FAILURE


class LeaseLostError(UserError):
    """This process no longer holds the lease."""

    status = EXIT_FAILURE


class Lease:
    """A lease of this process on a folder. Thread-safe."""

    def __init__(self, folder: str | os.PathLike[str]):
        """Creates an object without reading or writing.

        Args:
          folder: path or URL; `acquire` creates it if missing.
        """
        self.folder = os.fspath(folder)
        self._mine = Holder.this_process()
        self._place: LeaseFile | LeaseObject
        if storage.is_remote(self.folder):
            self._place = LeaseObject(self.folder, FILE, self._is_mine)
        else:
            self._place = LeaseFile(self.folder, FILE)
        self._writing = threading.Lock()
        self._ended = threading.Event()

    @property
    def token(self) -> str:
        """Random text that is unique to this lease; it is in the file while the lease is held."""
        return self._mine.token

    def acquire(
        self,
        busy: str,
        remedy: str,
        patience: float | None = None,
        waiting: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Takes the lease, and renews it in a thread until `release` or the end of the process.

        Args:
          busy: start of the error message if another process holds the lease.
          remedy: end of that message.
          patience: seconds to wait for a holder that renews its lease (inf: without limit; None:
            `PATIENCE`). If the holder does not renew it, this waits until the lease expires.
          waiting: called once with a line of text, if another process holds the lease.

        Raises:
          LeaseHeldError: another process holds the lease and renews it.
          UserError: the folder can't be created or written to; `UnreachableError` if transient.
        """
        patience = PATIENCE if patience is None else patience
        watch = Watch()
        try:
            self._place.prepare()
            while not self._place.take(self._mine.content(), watch):
                who = _named(watch.holder)
                if watch.is_alive and watch.waited >= patience:
                    raise LeaseHeldError(f"{busy}{who}: {remedy}")
                if watch.looks == 2:  # at the first one the holder may be about to end
                    waiting(f"waiting   for another process{who} in {self.folder}")
                time.sleep(POLL)
            self._place.clean()
        except OSError as error:
            raise file_error(
                error, f"{self.folder} can't be written to ({error.strerror}): free disk space,"
                " or give another folder.", writing=True,
            ) from None  # fmt: skip
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def check(self) -> None:
        """Checks that this process still holds the lease; must be called before a write.

        Raises:
          LeaseLostError: another process has the lease, or its file was removed.
          UserError: the folder can't be read; `UnreachableError` if transient.
        """
        try:
            content = self._place.read()
        except OSError as error:
            raise file_error(
                error, f"{self.folder} can no longer be read ({error.strerror}): restore access"
                " and repeat the command.",
            ) from None  # fmt: skip
        if content is None:
            raise LeaseLostError(
                f"{storage.join(self.folder, FILE)} was removed while in use: repeat the command,"
                " and do not remove that file."
            )
        if not self._is_mine(content):
            holder = Holder.parse(content)
            raise LeaseLostError(
                f"{self.folder} was taken over by another process{_named(holder)} because this one"
                f" did not renew its lease for {EXPIRY:g} s: it ends without writing there."
            )

    def holder(self) -> Holder | None:
        """Returns the holder named in the folder now; None if there is none or it can't be read."""
        try:
            return Holder.parse(self._place.read() or b"")
        except (OSError, UserError):
            return None

    def release(self) -> None:
        """Releases the lease; ignores a lease file that can't be removed."""
        self._ended.set()
        with self._writing, contextlib.suppress(OSError, UserError):
            if (content := self._place.read()) is not None and self._is_mine(content):
                self._place.release()
        with self._writing, contextlib.suppress(OSError):
            self._place.close()

    def _keep(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            # A failure here is detected by `check`.
            with self._writing, contextlib.suppress(OSError, ValueError, UserError):
                if self._ended.is_set():
                    return
                self._mine = dataclasses.replace(self._mine, beat=self._mine.beat + 1)
                self._place.renew(self._mine.content())

    def _is_mine(self, content: bytes) -> bool:
        holder = Holder.parse(content)
        return holder is not None and holder.token == self.token


class Watch:
    """Observations of another process' lease file, by this process' clock.

    Attributes:
      looks: number of observations.
      waited: seconds since the first one.
      holder: named by the file at the last one.
      is_alive: whether a holder has renewed its lease meanwhile.
    """

    def __init__(self) -> None:
        self.looks, self.waited, self.is_alive = 0, 0.0, False
        self.holder: Holder | None = None
        self._content, self._same, self._last = b"", 0.0, time.monotonic()

    @functools.cached_property
    def claim(self) -> Watch:
        """Observations of the claim file of a process that is taking over."""
        return Watch()

    def is_over(self, content: bytes) -> bool:
        """Adds an observation; returns whether the holder has ended or its lease has expired."""
        now, before = time.monotonic(), self.holder
        # A pause of this process or of the storage must not count as missing renewals.
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

    `busy`, `remedy`, `patience` (in seconds) and `waiting` are those of `Lease.acquire`, which also
    defines the other errors.

    Raises:
      LeaseLostError: the block raised an exception, and the lease is lost.
    """
    lease = Lease(folder)
    lease.acquire(busy, remedy, patience, waiting)
    try:
        with resumable_end.cleaned_up_by(lease.release):
            yield lease
    except Exception as error:
        try:
            lease.check()
        except LeaseLostError as loss:
            raise loss from error
        except UserError:
            pass
        # After a lost peer, asynchronous writes may run until the process ends: keep the lease.
        if not isinstance(error, LostProcessError):
            lease.release()
        raise
    except BaseException:
        lease.release()
        raise
    lease.release()


@contextlib.contextmanager
def held_on_disk(
    folder: str,
    busy: str,
    remedy: str,
    patience: float | None = None,
    waiting: Callable[[str], object] = lambda line: None,
) -> Iterator[None]:
    """`held` for a local folder. For a URL it holds no lease, as two builders write the same bytes.

    `busy`, `remedy`, `patience` (in seconds) and `waiting` are those of `Lease.acquire`.
    """
    if storage.is_remote(folder):
        yield
        return
    with held(folder, busy, remedy, patience, waiting):
        yield


def _named(holder: Holder | None) -> str:
    return f" ({holder})" if holder else ""
