"""A lock on a folder, between processes of one machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from xkd_jax.errors import UserError, file_error


@contextlib.contextmanager
def held(path: str | os.PathLike[str], busy: str | Callable[[], None]) -> Iterator[None]:
    """Holds the lock on `path`, a file made where there is none; a process that dies lets it go.

    Args:
      path: of the file.
      busy: what is said where another process holds it, or what is called before waiting for it.

    Raises:
      UserError: another holds it and isn't waited for, or the file can't be written or locked.
      UnreachableError: it can't for a reason that may pass.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "a", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if isinstance(busy, str):
                    raise UserError(busy) from None
                busy()
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise file_error(
                error, f"{path} can't be locked ({error.strerror}): give a folder that can be"
                " written to, on a disk that has locks.", writing=True,
            ) from None  # fmt: skip
        yield
