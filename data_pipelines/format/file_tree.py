"""The files of a folder and of all its sub-folders, local or remote."""

from __future__ import annotations

import os
from collections.abc import Iterator

from data_pipelines.errors import UserError
from data_pipelines.format import filesystems, storage
from data_pipelines.format.retries import with_retries


def walk(directory: str) -> Iterator[str]:
    """Yields the path of every file below `directory`, except hidden files and folders.

    Paths are relative to `directory`, with forward slashes, as text that does not depend on the
    locale (`storage.as_text`); `storage.join` converts them to local paths.

    Raises:
      UserError: there is no such folder, a folder can't be listed, or a name is not UTF-8.
      UnreachableError: the storage does not respond.
    """
    if storage.is_remote(directory):
        store = filesystems.of(directory)
        root = store._strip_protocol(directory).rstrip("/") + "/"
        found = (path.removeprefix(root) for path in with_retries(directory, store.find, directory))
        yield from (path for path in found if not any(map(_is_hidden, path.split("/"))))
        return
    if not os.path.isdir(directory):
        raise UserError(f"{directory} is not a folder: check the path.")
    seen = set()
    for folder, folders, names in os.walk(directory, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # reached before, through a link
            folders.clear()
            continue
        seen.add(real)
        # Sorted, so that the choice between a folder and a link to it does not depend on the
        # system.
        shown = (name for name in folders if not _is_hidden(name))
        folders[:] = sorted(shown, key=os.fsencode)
        for name in names:
            if not _is_hidden(name):
                path = os.path.relpath(os.path.join(folder, name), directory)
                yield _in_utf_8(storage.as_text(path.replace(os.sep, "/")), directory)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _in_utf_8(path: str, directory: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{directory} has {path!a}, a name that is not UTF-8: rename it.") from None
    return path


def _refuse(error: OSError) -> None:
    raise storage.cannot_list(error.filename, error)
