"""Retries of accesses to remote storage, in addition to those of fsspec's packages."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from data_pipelines.errors import UnreachableError, UserError

_T = TypeVar("_T")
# Retries of an access: about a minute in total, as each wait is twice the one before.
TRIES = 8
FIRST_WAIT = 0.5  # seconds
# Errors that a retry can't change.
_PERMANENT = (FileNotFoundError, NotImplementedError, TypeError, AttributeError, UserError)
# Types of errors of missing or expired credentials, which the packages of stores raise.
_CREDENTIALS = re.compile("Credentials|TokenRetrieval|SSOToken|Refresh")
# Errors of a full local disk.
FULL = (errno.ENOSPC, errno.EDQUOT)


def with_retries(path: str, action: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Returns the result of an access to remote storage, with retries after transient errors.

    Args:
      path: of the file, for error messages.
      action: called as `action(*args, **options)`.

    Raises:
      UnreachableError: every try failed, or access is denied.
      OSError: there is no such file, or the local disk is full.
    """
    for number in range(TRIES):
        try:
            return action(*args, **options)
        except _PERMANENT:
            raise
        except Exception as error:  # each package defines other errors
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            if _is_denied(error):
                raise _denied(path, error) from None
            last = f"{type(error).__name__}: {_line(error)}"
        if number < TRIES - 1:
            time.sleep(FIRST_WAIT * 2**number)
    raise UnreachableError(
        f"{path} can't be reached ({TRIES} tries, last error: {last}): check the connection and"
        " the permissions."
    )


def _line(error: Exception) -> str:
    """Returns an error's text as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


def _is_denied(error: Exception) -> bool:
    """Whether a store refuses these credentials, or there are none."""
    return (
        isinstance(error, PermissionError)
        or _CREDENTIALS.search(type(error).__name__) is not None
        or getattr(error, "code", None) in (401, 403)  # of gcsfs, as is the text
        or str(error).startswith("Forbidden: ")
    )


def _denied(path: str, error: Exception) -> UnreachableError:
    return UnreachableError(
        f"Access to {path} is denied ({_line(error)}): check the credentials and the permissions."
    )
