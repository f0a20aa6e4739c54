"""Errors of reading and writing checkpoints, as one sentence, and the same on every process."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import PurePath

import jax

from data_pipelines.errors import UnreachableError, UserError, is_transient
from xkd_jax.parallel.processes import global_max, lost_process_error

# Results of reading on one process; the largest over all processes counts.
_DAMAGED, _OUT_OF_REACH, _REFUSED = 1, 2, 3
# TensorStore raises a ValueError whose text has the system's error number, and sometimes a file.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
_FILE = re.compile(r'local file "([^"]*)"')
# For an object store, the text has the status of the request.
_DENIED = re.compile(
    r"PERMISSION_DENIED|UNAUTHENTICATED|AccessDenied|ExpiredToken|HTTP[^:]*: 40[13]"
)
_OUT = re.compile(r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|RESOURCE_EXHAUSTED")
_NO_ACCESS = "the store denies access: check the credentials and the permissions"


class DamagedError(Exception):
    """The content of a checkpoint differs from what was saved."""


@contextlib.contextmanager
def same_reading_error(folder: PurePath) -> Iterator[None]:
    """Raises an error of reading a checkpoint on every process, if it occurs on one of them.

    Args:
      folder: the checkpoint, for messages.

    Raises:
      DamagedError: a process can't read it.
      UnreachableError: for a transient reason.
      UserError: for lack of permission.
      LostProcessError: the connection to another process broke.
    """
    fault, kind = "", 0
    try:
        yield
    except Exception as error:  # Orbax raises many types for damaged files
        if loss := lost_process_error(error):
            raise loss from error
        if isinstance(error, (MemoryError, jax.errors.JaxRuntimeError)):
            raise  # not an error of the files
        cause = root_cause(error)
        fault = first_line(cause)
        if isinstance(cause, UnreachableError) or is_transient(cause):
            kind = _OUT_OF_REACH
        elif isinstance(cause, PermissionError):
            kind = _REFUSED
        else:
            kind = _DAMAGED
    worst = global_max(kind)
    fault = fault or "another process can't read its part"
    if worst == _DAMAGED:
        raise DamagedError(fault)
    if worst == _OUT_OF_REACH:
        raise UnreachableError(
            f"The checkpoint {folder} can't be read ({fault}): run the same command again; if"
            " that fails too, rename the folder, and the checkpoint before it is used."
        )
    if worst == _REFUSED:
        raise UserError(f"The checkpoint {folder} can't be read ({fault}): make it readable.")


@contextlib.contextmanager
def file_errors(sentence: str) -> Iterator[None]:
    """Converts errors of the file system, Orbax and TensorStore to one sentence.

    Args:
      sentence: subject and verb of the message, such as "The folder X can't be listed".

    Raises:
      UnreachableError: the reason is transient.
      UserError: it is not.
      LostProcessError: the connection to another process broke.
    """
    try:
        yield
    except Exception as error:
        if loss := lost_process_error(error):
            raise loss from error
        of_files = isinstance(error, (OSError, ValueError, RuntimeError))
        if not of_files or isinstance(error, jax.errors.JaxRuntimeError):
            raise
        cause = root_cause(error)
        lasting = not isinstance(cause, UserError) and not is_transient(cause, writing=True)
        remedy = f"{'make room or repair it and ' if lasting else ''}run the same command again"
        raise (UserError if lasting else UnreachableError)(
            f"{sentence} ({first_line(cause)}): {remedy}; complete checkpoints are kept."
        ) from error


def root_cause(error: BaseException) -> BaseException:
    """Returns the first error of a chain; for TensorStore's errors, the `OSError` in their text."""
    while error.__cause__ and not isinstance(error, UserError):
        error = error.__cause__
    if found := _SYSTEM_ERROR.search(str(error)):
        number, file = int(found[1]), _FILE.findall(str(error))[-1:]
        return OSError(number, os.strerror(number), *file)
    if isinstance(error, ValueError | RuntimeError):
        if _DENIED.search(str(error)):
            return UnreachableError(_NO_ACCESS)
        if _OUT.search(str(error)):
            return TimeoutError(first_line(error))
    return error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, at most 200 characters, or the error's type."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
