"""Functions that fail at some of their calls, to simulate a failing process or store."""

import os
from typing import Any
from unittest.mock import Mock

import pytest

from data_pipelines.errors import UnreachableError
from data_pipelines.format import storage


class Killed(BaseException):
    """The end of a process: an exception that the code under test does not handle."""


def kill_after(patch: pytest.MonkeyPatch, module: Any, name: str, calls: int) -> list[int]:
    """Replaces a function by one that raises `Killed` at each call after the first ones.

    Args:
      patch: undoes the replacement.
      module: of the function.
      name: of the function.
      calls: number of calls before.

    Returns:
      A list that grows by one item at each call.
    """
    function, made = getattr(module, name), []

    def call_or_die(*args):
        made.append(len(made) + 1)
        if len(made) > calls:
            raise Killed
        return function(*args)

    patch.setattr(module, name, call_or_die)
    return made


def system_error(number: int) -> Mock:
    """Returns a function that fails with an error of the system, such as `errno.ENOSPC`."""
    return Mock(side_effect=OSError(number, os.strerror(number)))


def lose_writes(patch: pytest.MonkeyPatch, calls: int) -> None:
    """Lets the first calls of `storage.write` fail, as if the store could not be reached.

    Args:
      patch: undoes the replacement.
      calls: number of calls that fail.
    """
    write, made = storage.write, []

    def fail_at_first(path, content):
        made.append(path)
        if len(made) <= calls:
            raise UnreachableError(f"{path} can't be reached.")
        write(path, content)

    patch.setattr(storage, "write", fail_at_first)
