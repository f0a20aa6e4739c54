"""Exceptions whose message is one sentence for the user, and the exit statuses of commands."""

from __future__ import annotations

import errno

# Exit statuses besides 0.
EXIT_FAILURE = 1  # the same command may succeed later
EXIT_BAD_INPUT = 2  # the input or the config must change first
EXIT_UNFIT_DEVICES = 3  # the same command may run on another number of devices
EXIT_RESUMABLE = 75  # stopped on request; the same command resumes (EX_TEMPFAIL of sysexits.h)
EXIT_INTERRUPTED = 130  # ended by Ctrl-C without saving; 128 + SIGINT

# Errors of a file system that is out of reach; not every system defines all of them.
_TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED",
        "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO", "EAGAIN",
    )
    if hasattr(errno, name)
)  # fmt: skip
# Too many open files: transient for reads. For writes gcsfuse returns it for operations that it
# never supports.
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE))
# Errors of writes that fail again until a person changes something.
_PERMANENT_WRITES = _EXHAUSTED | {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ELOOP, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK,
}  # fmt: skip


def is_transient(error: BaseException, *, writing: bool = False) -> bool:
    """Whether the same access to a file may succeed later.

    Args:
      error: raised by the access.
      writing: whether a file was written; then every cause that is not known as permanent is
        transient.
    """
    number = error.errno if isinstance(error, OSError) else None
    if writing:
        return number not in _PERMANENT_WRITES
    return isinstance(error, TimeoutError) or number in _TRANSIENT or number in _EXHAUSTED


class UserError(Exception):
    """Bad input. The message is one sentence: what is wrong, where, and what to do.

    Commands print the message and exit with `status`. Exceptions of types that are not in this file
    print a traceback.
    """

    status = EXIT_BAD_INPUT


class UnreachableError(UserError):
    """Storage or another process does not respond; the same command may succeed later."""

    status = EXIT_FAILURE


class DevicesError(UserError):
    """The run does not fit its devices, and may fit another number of them."""

    status = EXIT_UNFIT_DEVICES


def kind_of(status: int) -> type[UserError]:
    """Returns the class of another process's error, by its exit status.

    Args:
      status: its exit status.
    """
    return {kind.status: kind for kind in (UnreachableError, DevicesError)}.get(status, UserError)


def file_error(error: OSError, sentence: str, *, writing: bool = False) -> UserError:
    """Returns the exception for a file that can't be used: `UnreachableError` if transient.

    Args:
      error: raised by the system.
      sentence: the message.
      writing: whether the access was a write.
    """
    return (UnreachableError if is_transient(error, writing=writing) else UserError)(sentence)


class CorruptedStateError(UserError):
    """A device holds or computes values that it should not: a fault of a machine."""

    status = EXIT_FAILURE


class StoppedError(Exception):
    """The run was asked to stop; the same command resumes it (exit status `EXIT_RESUMABLE`)."""


class LostProcessError(Exception):
    """Another process of the run has ended or is unreachable (exit status `EXIT_FAILURE`)."""


class TrainingDivergedError(UserError):
    """A loss is not finite, and `nonfinite.action` is stop or `nonfinite.limit` is exceeded.

    Attributes:
      step: first step with a value that is not finite.
      term: names of the losses or other metrics that are not finite.
      checkpoint: step of the last good checkpoint, or None.
      tolerated: number of steps skipped, or of rollbacks, before.
    """

    def __init__(self, step: int, term: str, checkpoint: int | None, tolerated: int = 0):
        good = (
            "there is no checkpoint yet"
            if checkpoint is None
            else f"the last good checkpoint is of step {checkpoint}"
        )
        often = f", after {tolerated} skips or rollbacks" if tolerated else ""
        super().__init__(
            f"Step {step}: {term} is not finite{often}; the run stops without saving, {good}: lower"
            " optimizer.learning_rate, or see nonfinite.action for a few such steps."
        )
        self.step, self.term = step, term
        self.checkpoint, self.tolerated = checkpoint, tolerated
