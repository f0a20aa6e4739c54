"""The process that holds a lease: its JSON form, and whether it has ended."""

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
    place: identifies the boot of the machine and the PID namespace; see `place`.
    started: start time of the process in kernel ticks; 0 if unknown.
    since: start of the lease by the holder's clock; for messages only.
    command: command line of the process.
    token: random text that is unique to this lease.
    beat: number of times that the file was rewritten.
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
        """Returns this process as the holder of a new lease."""
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
        """Returns the holder named in a lease file; None if the content is invalid."""
        try:
            found = cls(**json.loads(content))
        except (ValueError, TypeError, RecursionError):
            return None
        kinds = {name: type(value) for name, value in dataclasses.asdict(found).items()}
        return found if kinds == _KINDS else None

    def content(self) -> bytes:
        """Returns the content of the lease file, which `parse` reads."""
        return json.dumps(dataclasses.asdict(self)).encode()

    def __str__(self) -> str:
        return escaped(f"{self.pid} on {self.host}, since {self.since}: {self.command}")

    def has_ended(self) -> bool:
        """Whether this is a process of this machine and has ended; False if unknown."""
        if self.place != place():
            return False
        started = _start_ticks(self.pid)
        if started is not None:
            return started != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # a process of another user
            return False
        return False


_KINDS = {
    "host": str, "pid": int, "place": str, "started": int, "since": str, "command": str,
    "token": str, "beat": int,
}  # fmt: skip


def place() -> str:
    """Returns an identifier of the boot and the PID namespace, within which PIDs are unique."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not on Linux
        return f"{uuid.getnode():x}"


def _start_ticks(pid: int) -> int | None:
    """Returns the start time of a process of this machine; -1 if it has ended, None if unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # from field 3
        state, threads, ticks = fields[0], int(fields[17]), int(fields[19])
    except (OSError, ValueError, IndexError):  # no such process, or hidden from this user
        return None
    # A zombie is listed until its parent waits for it; other threads of it may still run.
    return -1 if state in (b"Z", b"X") and threads <= 1 else ticks
