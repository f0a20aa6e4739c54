"""Folders of files that a program executes, so that nobody else may write to them."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make(path: str) -> None:
    """Creates a folder that only this user can enter, with its parents, or accepts an existing one.

    An existing one must be private to this user, and no other user may be able to replace it.

    Args:
      path: an absolute path.

    Raises:
      PermissionError: another user can write to it or replace it.
      OSError: it can't be created.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    others = found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or others:
        raise PermissionError(None, "it is not a folder of this user alone", path)
    for parent in Path(os.path.realpath(path)).parents:
        above = parent.stat()
        open_to_all = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
        if above.st_uid not in (0, os.getuid()) or open_to_all:
            raise PermissionError(None, f"another user can write to {parent}", path)
