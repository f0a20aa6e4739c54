"""A folder for numba's cache of compiled functions.

librosa requires that cache. If numba has no writable folder for it (a read-only installation and
home, as in many containers), importing librosa fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from data_pipelines import private_folder
from data_pipelines.errors import UserError

_VARIABLE = "NUMBA_CACHE_DIR"


def import_librosa() -> ModuleType:
    """Imports librosa when first needed, as the import takes a second.

    Raises:
      UserError: there is no writable folder for numba's cache.
    """
    if "librosa" not in sys.modules:
        ensure_folder()
    import librosa

    return librosa


def ensure_folder() -> None:
    """Sets numba's cache to a private temporary folder if its default folders are not writable.

    Raises:
      UserError: there is no temporary folder either.
    """
    import numba
    from numba.misc.appdirs import AppDirs

    config: Any = numba.config
    chosen = config.CACHE_DIR
    if chosen and _writable(chosen):
        return
    if all(map(_writable, _cache_folders("librosa"))):
        return
    if _writable(AppDirs(appname="numba", appauthor=False).user_cache_dir):
        return
    # The environment variable is for child processes.
    try:
        config.CACHE_DIR = os.environ[_VARIABLE] = _private_folder()
    except OSError as error:
        raise UserError(
            f"There is no folder for numba's cache ({error.strerror or error}): set {_VARIABLE} to"
            " a writable folder."
        ) from None


def _cache_folders(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    for root in (spec and spec.submodule_search_locations) or ():
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name != "__pycache__"]
            if any(name.endswith(".py") for name in names):
                yield os.path.join(folder, "__pycache__")


def _writable(folder: str) -> bool:
    """Whether a file can be created in a folder, which is created if missing, as numba does."""
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _private_folder() -> str:
    """Returns a folder that only this user can write to, as numba unpickles files in it."""
    path = os.path.join(tempfile.gettempdir(), f"numba-{os.getuid()}")
    with contextlib.suppress(OSError):
        private_folder.make(path)
        if _writable(path):
            return path
    return tempfile.mkdtemp(prefix="numba-")
