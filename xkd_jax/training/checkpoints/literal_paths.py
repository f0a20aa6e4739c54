"""Checkpoints in folders whose names contain glob characters, such as `exp[lr=1e-3]`.

Orbax lists the parts of a checkpoint with etils' `Path.glob`, which treats the folder's name as a
part of the pattern: it would list no files of such a folder, or those of another one.
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
    """Replaces etils' `Path.glob` by one that takes a local folder's name literally."""
    _PathClass.glob = _glob


def _glob(self: Any, pattern: str) -> Iterator[Any]:
    folder = os.fspath(self)
    if "://" in folder:
        yield from _glob_of_etils(self, pattern)
        return
    for name in glob.glob(pattern, root_dir=folder):
        yield self / name
