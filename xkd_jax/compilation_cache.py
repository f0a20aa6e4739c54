"""JAX's cache of compiled programs in the user's cache folder, for later starts."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import jax

from data_pipelines import private_folder

# Largest size of the cache, in bytes; the least recently used programs are deleted first.
MAX_SIZE = 4 * 2**30
_LOCK_SECONDS = 10.0
# An entry without a time of use that is older than this, in seconds, is from an interrupted write.
_INTERRUPTED = 60.0


def enable(print_note: Callable[[str], None]) -> None:
    """Lets JAX keep compiled programs in `folder`; must be called before the first compilation.

    JAX's own settings take precedence: with JAX_COMPILATION_CACHE_DIR or
    JAX_ENABLE_COMPILATION_CACHE, nothing is changed. JAX executes the programs in the folder, so it
    must be private to this user. The keys of programs contain the versions of libraries, the
    compiler's flags and the processor's features; processes hold a lock while they read or write.

    Args:
      print_note: gets a line if programs can't be kept, with the reason.
    """
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] or not settings["jax_enable_compilation_cache"]:
        return
    path = folder()
    try:
        private_folder.make(path)
        with filelock.FileLock(f"{path}/start.lock", timeout=_LOCK_SECONDS):
            _remove_interrupted(Path(path))
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        print_note(f"note      compiled programs are not kept in {path}: {reason}")
        return
    jax.config.update("jax_compilation_cache_dir", path)
    jax.config.update("jax_compilation_cache_max_size", MAX_SIZE)


def folder() -> str:
    """Returns the folder of compiled programs, in XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return os.path.join(base, "xkd_jax", "programs")


def _remove_interrupted(path: Path) -> None:
    """Removes entries that a killed process or a full disk left incomplete, which JAX never
    replaces: it writes an entry's time of use after its program."""
    for entry in path.glob("*-cache"):
        used = entry.with_name(entry.name.removesuffix("cache") + "atime")
        with contextlib.suppress(FileNotFoundError):  # another process has deleted it
            if not used.exists() and time.time() - entry.stat().st_mtime > _INTERRUPTED:
                entry.unlink()
