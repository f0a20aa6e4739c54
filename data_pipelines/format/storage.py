"""Files of a data set, on a local disk or behind a URL (`gs://`, `s3://`, `memory://`).

URLs go through fsspec, which needs the store's own package (gcsfs, s3fs) installed beside it. Reads
that fail for a reason that may pass are tried again, whatever the store's package does by itself.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar, cast

from data_pipelines import durable, lease
from data_pipelines.errors import UnreachableError, UserError, file_error

_T = TypeVar("_T")
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs"}
# A letter alone is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# Tries of a read or an upload, and seconds from the first to the second; each wait is twice the one
# before: a minute in all.
_TRIES = 8
FIRST_WAIT = 0.5
# Errors that the same read would meet again.
_LASTING = (FileNotFoundError, NotImplementedError, TypeError, AttributeError, UserError)
# What this machine says of its own disk, where files go through it.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_remote(path: str) -> bool:
    """Whether `path` is a URL, SCHEME://..., and not a path of this machine (with a colon, say)."""
    return _URL.match(path) is not None


def filesystem(path: str) -> Any:
    """Returns the fsspec filesystem behind a URL.

    Raises:
      UserError: the scheme is unknown, or the package that speaks it is not installed.
    """
    import fsspec

    scheme = path.split("://", 1)[0]
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        remedy = f"pip install {package}" if package else str(error).rstrip(".")
        raise UserError(
            f"{path} can't be opened without the package for {scheme}://: {remedy}."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} can't be opened: {str(error).rstrip('.')}.") from None


def join(directory: str, name: str) -> str:
    """Returns the path of `name` (which is text, see `walk`) in `directory`."""
    if is_remote(directory):
        return f"{directory.rstrip('/')}/{name}"
    return f"{directory}/{os.fsdecode(name.encode('utf-8', 'surrogateescape'))}"


def as_text(path: str) -> str:
    """Returns a path of this machine as it is in UTF-8, whatever the locale it was given in.

    Python decodes names by the locale; in one that is not UTF-8, text would depend on that.
    """
    return path if is_remote(path) else os.fsencode(path).decode("utf-8", "surrogateescape")


def sizes(directory: str) -> dict[str, int]:
    """Returns the name and size in bytes of every file directly in `directory`.

    Raises:
      UserError: there is no such folder, or it can't be listed.
      UnreachableError: the store or file system doesn't answer.
    """
    try:
        if is_remote(directory):
            store = filesystem(directory)
            entries = persistently(directory, store.ls, directory, detail=True, refresh=True)
            return {
                e["name"].rstrip("/").rsplit("/", 1)[-1]: int(e["size"])
                for e in entries
                if e["type"] == "file"
            }
        with os.scandir(directory) as found:
            return {e.name: e.stat().st_size for e in found if e.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} is not a folder: check the path.") from None
    except OSError as error:
        raise _cannot_list(directory, error) from None


def walk(directory: str) -> Iterator[str]:
    """Yields the path below `directory`, with forward slashes, of every file that isn't hidden.

    Paths are text: the same in every locale (`as_text`). `join` makes names of this system of them.

    Raises:
      UserError: there is no such folder, it or one below can't be listed, or a name is not UTF-8.
      UnreachableError: the store or file system doesn't answer.
    """
    if is_remote(directory):
        store = filesystem(directory)
        root = store._strip_protocol(directory).rstrip("/") + "/"
        found = (path.removeprefix(root) for path in persistently(directory, store.find, directory))
        yield from (path for path in found if not any(map(_is_hidden, path.split("/"))))
        return
    if not os.path.isdir(directory):
        raise UserError(f"{directory} is not a folder: check the path.")
    seen = set()
    for folder, folders, names in os.walk(directory, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        # Sorted, so that of a folder and a link to it the same one is kept on every file system.
        shown = (name for name in folders if not _is_hidden(name))
        folders[:] = sorted(shown, key=os.fsencode)
        for name in names:
            if not _is_hidden(name):
                path = os.path.relpath(os.path.join(folder, name), directory)
                yield _in_utf_8(as_text(path.replace(os.sep, "/")), directory)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _in_utf_8(path: str, directory: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{directory} has {path!a}, a name that is not UTF-8: rename it.") from None
    return path


def _refuse(error: OSError) -> None:
    raise _cannot_list(error.filename, error)


def _cannot_list(directory: str, error: OSError) -> UserError:
    return file_error(
        error, f"{directory} can't be listed ({error.strerror}): make it readable, or move it away."
    )


def exists(path: str) -> bool:
    """Returns whether there is a file of that name."""
    if is_remote(path):
        return bool(persistently(path, filesystem(path).exists, path))
    return os.path.isfile(path)


def read(path: str, most: int | None = None) -> bytes:
    """Returns the content of a file, or so many of its first bytes at most.

    Raises:
      FileNotFoundError: there is no such file.
      UnreachableError: a store doesn't answer.
    """
    if is_remote(path):
        part = {} if most is None else {"start": 0, "end": most}
        return cast(bytes, persistently(path, filesystem(path).cat_file, path, **part))
    with open(path, "rb") as file:
        if most is None:
            return file.read()
        return file.read(min(most, os.fstat(file.fileno()).st_size))  # `read` takes that memory


def fetch(url: str, file: BinaryIO) -> None:
    """Copies a remote file into a local one that is empty.

    Raises:
      FileNotFoundError: there is no such file.
      UnreachableError: the store doesn't answer, or this machine has no room.
    """

    def copy() -> None:
        file.seek(0)
        file.truncate()
        with filesystem(url).open(url, "rb") as remote:
            shutil.copyfileobj(remote, file)
        file.flush()

    try:
        persistently(url, copy)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UnreachableError(
            f"{url} can't be copied to {tempfile.gettempdir()} ({error.strerror}): make room there."
        ) from None


def read_range(url: str, start: int, end: int) -> bytes:
    """Returns the bytes of a remote file from `start` to before `end`, in one request.

    Raises:
      UserError: there is no such file any more.
      UnreachableError: the store doesn't answer.
    """
    try:
        return cast(bytes, persistently(url, filesystem(url).cat_file, url, start=start, end=end))
    except FileNotFoundError:
        raise UserError(f"{url} was removed while in use: start the run again.") from None


def size(url: str) -> int:
    """Returns the size in bytes of a remote file now, -1 if there is none."""
    store = filesystem(url)
    store.invalidate_cache()
    try:
        return int(persistently(url, store.size, url))
    except FileNotFoundError:
        return -1


def persistently(path: str, action: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Returns what a read or an upload of a store does, trying again where that may help.

    Args:
      path: that is read or written, for the error message.
      action: is called as `action(*args, **options)`.

    Raises:
      UnreachableError: it failed each time, or the store refuses it.
      OSError: there is no such file, or this machine's own disk is full.
    """
    for number in range(_TRIES):
        try:
            return action(*args, **options)
        except _LASTING:
            raise
        except PermissionError as error:
            raise UnreachableError(
                f"{path} is refused ({error}): check the credentials and the permissions."
            ) from None
        except Exception as error:  # each store's package has errors of its own
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            last = f"{type(error).__name__}: {error}"
        if number < _TRIES - 1:
            time.sleep(FIRST_WAIT * 2**number)
    raise UnreachableError(
        f"{path} can't be reached ({_TRIES} tries, the last: {last}): check the connection and the"
        " permissions."
    )


@contextlib.contextmanager
def locked(
    folder: str,
    busy: str,
    remedy: str,
    patience: float | None = None,
    waiting: Callable[[str], object] = lambda line: None,
) -> Iterator[None]:
    """`lease.held` for a folder; a store's needs none, as two builders write the same there.

    `busy`, `remedy`, `patience` (in seconds) and `waiting` are those of `lease.Lease.acquire`.
    """
    if is_remote(folder):
        yield
        return
    with lease.held(folder, busy, remedy, patience, waiting):
        yield


@contextlib.contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """Yields a file that appears under `path` once it is complete and synced, or not at all.

    On this machine that is a temporary name, fsync and rename. A URL's file is made here and
    uploaded whole, since an interrupted upload of some stores leaves a truncated file.

    Raises:
      UnreachableError: the store doesn't answer.
    """
    if is_remote(path):
        with tempfile.NamedTemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.flush()
            persistently(path, filesystem(path).put_file, file.name, path)
        return
    with durable.replacing(path, f"{path}.{os.getpid()}.tmp") as local:
        yield local


def make_folder(path: str) -> None:
    """Makes a folder and its parents where the store has folders.

    Raises:
      UserError: it can't be made; `UnreachableError` where that may pass.
    """
    if is_remote(path):
        persistently(path, filesystem(path).makedirs, path, exist_ok=True)
        return
    try:
        durable.make_folders(path)
    except OSError as error:
        raise file_error(error, f"{path} can't be made: {error.strerror}.", writing=True) from None


def remove_folder(path: str) -> None:
    """Removes a folder, if it is there, and what is in it."""
    with contextlib.suppress(FileNotFoundError):
        if is_remote(path):
            # fsspec takes the path for a glob
            persistently(path, filesystem(path).rm, glob.escape(path), recursive=True)
        else:
            shutil.rmtree(path)
