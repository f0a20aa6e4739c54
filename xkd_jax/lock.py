"""A lock on a folder, between processes of one machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from xkd_jax.errors import UserError


@contextlib.contextmanager
def held(path: str | os.PathLike[str], busy: str) -> Iterator[None]:
    """Holds the lock on `path`, a file made where there is none; a process that dies lets it go.

    Raises:
      UserError: another holds it, of which `busy` tells, or the file can't be written or locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError as error:
            raise UserError(
                f"{path} can't be locked ({error.strerror}): give a folder that can be written to,"
                " on a disk that has locks."
            ) from None
        yield
