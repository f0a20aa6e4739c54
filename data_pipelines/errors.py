"""Exceptions that say what went wrong in one sentence for the person who started the run."""

from __future__ import annotations

import errno

# Exit statuses of `main.py`, next to 0: a failure, which another try may not meet; bad input, which
# another try won't mend; a run that was asked to stop and goes on when it is started again
# (EX_TEMPFAIL of sysexits.h); and one that Ctrl-C ended at once, as shells say it.
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_RESUMABLE = 75
EXIT_INTERRUPTED = 130

# What a file system says that is out of reach, not that a file is at fault; not every system has
# each of them.
_PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED",
        "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EREMOTEIO", "EAGAIN",
    )
    if hasattr(errno, name)
)  # fmt: skip
# Too many files are open, where one is read; writing, gcsfuse means by it what it never does.
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE))
# What a file system says of a write that will fail again until a person does something.
_LASTING_WRITES = _EXHAUSTED | {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ELOOP, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK,
}  # fmt: skip


def is_transient(error: BaseException, *, writing: bool = False) -> bool:
    """Whether the same access to a file may succeed another time.

    Args:
      error: what it raised.
      writing: whether a file was written; then every cause that isn't known to last may pass.
    """
    number = error.errno if isinstance(error, OSError) else None
    if writing:
        return number not in _LASTING_WRITES
    return isinstance(error, TimeoutError) or number in _PASSING or number in _EXHAUSTED


class UserError(Exception):
    """Bad input: one sentence that names the thing at fault and the remedy.

    `main.py` and the command-line tools print the sentence and exit with `status`; every other
    exception but those below keeps its traceback.
    """

    status = EXIT_BAD_INPUT


class UnreachableError(UserError):
    """A store, or the other processes of the run, don't answer: another try may reach them."""

    status = EXIT_FAILURE


def file_error(error: OSError, sentence: str, *, writing: bool = False) -> UserError:
    """What to raise where a file can't be used: `UnreachableError` where that may pass.

    Args:
      error: what the system raised.
      sentence: the message.
      writing: whether the file was to be written.
    """
    return (UnreachableError if is_transient(error, writing=writing) else UserError)(sentence)


class StoppedError(Exception):
    """The run was asked to stop; the same command goes on (exit status `EXIT_RESUMABLE`)."""


class LostProcessError(Exception):
    """Other processes of the run are gone, for their own reasons (exit status `EXIT_FAILURE`)."""


class TrainingDivergedError(UserError):
    """A loss was not finite, and the config says stop or it was too often.

    Attributes:
      step: the first step at which it was not.
      term: the losses (or other metrics) that were not.
      checkpoint: step of the last good checkpoint, or None.
      tolerated: how many steps or rollbacks were put up with before.
    """

    def __init__(self, step: int, term: str, checkpoint: int | None, tolerated: int = 0):
        good = (
            "there is no checkpoint yet"
            if checkpoint is None
            else f"the last good checkpoint is of step {checkpoint}"
        )
        often = f", and {tolerated} times were put up with before" if tolerated else ""
        super().__init__(
            f"Step {step}: {term} is not finite{often}; the run stops without saving, {good}: lower"
            " optimizer.learning_rate, or see nonfinite.action for a few such steps."
        )
        self.step, self.term = step, term
        self.checkpoint, self.tolerated = checkpoint, tolerated
