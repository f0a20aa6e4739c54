"""Files of this machine that a power failure leaves whole: the old ones or the new ones."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

# Said by file systems that have no way to sync a folder, and need none or do so by themselves.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def replacing(path: str, temporary: str) -> Iterator[BinaryIO]:
    """Yields a file that replaces `path` once it is complete and synced, or not at all.

    Args:
      path: of the file.
      temporary: its name until then, in the same folder.

    Raises:
      OSError: it can't be written; the old file is as it was.
    """
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    sync_folder(os.path.dirname(path) or ".")


def make_folders(path: str) -> None:
    """Makes a folder and its parents where they are missing.

    Raises:
      OSError: one can't be made.
    """
    missing, at = [], os.path.abspath(path)
    while not os.path.isdir(at):
        missing.append(at)
        at = os.path.dirname(at)
    os.makedirs(path, exist_ok=True)
    for folder in missing:
        sync_folder(os.path.dirname(folder))


def sync_folder(path: str) -> None:
    """Makes the names in a folder survive a power failure.

    Raises:
      OSError: the file system failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: str) -> None:
    """Makes all files and folders below a folder survive a power failure.

    Raises:
      OSError: the file system failed.
    """

    def refuse(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(path, topdown=False, onerror=refuse):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(folder)
