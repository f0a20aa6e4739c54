"""The process that holds a lease: how it is written, and whether it has ended."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shlex
import socket
import sys
import time
import uuid

from data_pipelines.terminal import escaped

TOKEN_LENGTH = 32  # characters, in ASCII
_LONGEST_COMMAND = 1000  # characters


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that a lease belongs to.

    host, pid: of the process.
    place: the machine since its start, and the processes that see each other; see `place`.
    started: when the process started, in the kernel's ticks; 0 where that isn't known.
    since: when the lease began, by the clock of the holder's machine; only to be shown.
    command: of the process.
    token: random, of this lease alone.
    beat: how often the file was changed.
    """

    host: str
    pid: int
    place: str
    started: int
    since: str
    command: str
    token: str
    beat: int = 0

    @classmethod
    def this_process(cls) -> Holder:
        """A new lease of this process."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            place=place(),
            started=_start_ticks(os.getpid()) or 0,
            since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            command=shlex.join(sys.orig_argv)[:_LONGEST_COMMAND],
            token=secrets.token_hex(TOKEN_LENGTH // 2),
        )

    @classmethod
    def parse(cls, content: bytes) -> Holder | None:
        """The holder that a lease's file names; None: it is not whole, or no lease's."""
        try:
            found = cls(**json.loads(content))
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = {name: type(value) for name, value in dataclasses.asdict(found).items()}
        return found if kinds == _KINDS else None

    def content(self) -> bytes:
        """What `parse` reads."""
        return json.dumps(dataclasses.asdict(self)).encode()

    def __str__(self) -> str:
        return escaped(f"{self.pid} on {self.host}, since {self.since}: {self.command}")

    def has_ended(self) -> bool:
        """Whether it is known to be a process of this machine that has ended."""
        if self.place != place():
            return False
        started = _start_ticks(self.pid)
        if started is not None:
            return started != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        return False


_KINDS = {
    "host": str, "pid": int, "place": str, "started": int, "since": str, "command": str,
    "token": str, "beat": int,
}  # fmt: skip


def place() -> str:
    """The same for processes that see each other, on a machine that wasn't started again since."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not on Linux
        return f"{uuid.getnode():x}"


def _start_ticks(pid: int) -> int | None:
    """When a process of this machine started; -1: it has ended; None: that isn't known."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # from the third on
        state, threads, ticks = fields[0], int(fields[17]), int(fields[19])
    except (OSError, ValueError, IndexError):  # another user's may be hidden
        return None
    # One that has ended is listed until its parent asks for it; its threads may live longer.
    return -1 if state in (b"Z", b"X") and threads <= 1 else ticks
