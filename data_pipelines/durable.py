"""Atomic, synced writes to local files: after a power failure the old or the new file is whole."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import BinaryIO

# Errors of file systems that can't sync a folder.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def replacing(path: str, temporary: str) -> Iterator[BinaryIO]:
    """Yields a file that replaces `path` once it is complete and synced, or not at all.

    Args:
      path: of the file.
      temporary: path of the unfinished file, in the same folder.

    Raises:
      OSError: the file can't be written; the old one is unchanged.
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
    """Makes a folder and its missing parents, and syncs them.

    Raises:
      OSError: a folder can't be made.
    """
    missing, at = [], os.path.abspath(path)
    while not os.path.isdir(at):
        missing.append(at)
        at = os.path.dirname(at)
    os.makedirs(path, exist_ok=True)
    for folder in missing:
        sync_folder(os.path.dirname(folder))


def sync_folder(path: str) -> None:
    """Syncs the names in a folder, so that they survive a power failure.

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
    """Syncs all files and folders below a folder, so that they survive a power failure.

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
