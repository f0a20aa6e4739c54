"""Folders whose names mean something to a glob, as `exp[lr=1e-3]` does.

Orbax finds the parts of a checkpoint by globs below its folder, through etils' paths, which take
the folder's own name for a part of the pattern: nothing is found below such a folder, or another
folder's files are.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

_PathClass: Any = type(epath.Path())
_glob_of_etils = _PathClass.glob


def take_folders_literally() -> None:
    """Lets etils' paths glob below a local folder by the pattern alone, whatever its name."""
    _PathClass.glob = _glob


def _glob(self: Any, pattern: str) -> Iterator[Any]:
    folder = os.fspath(self)
    if "://" in folder:
        yield from _glob_of_etils(self, pattern)
        return
    for name in glob.glob(pattern, root_dir=folder):
        yield self / name
