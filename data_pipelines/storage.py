"""Files of a data set, on a local disk or behind a URL (`gs://`, `s3://`, `memory://`).

URLs go through fsspec, which needs the store's own package (gcsfs, s3fs) installed beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from xkd_jax.errors import UserError


def is_remote(path: str) -> bool:
    """Whether `path` is a URL and not a path of this machine."""
    return "://" in path


def filesystem(path: str) -> Any:
    """Returns the fsspec filesystem behind a URL.

    Raises:
      UserError: the scheme is unknown, or the package that speaks it is not installed.
    """
    import fsspec

    scheme = path.split("://", 1)[0]
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} can't be opened: {str(error).rstrip('.')}.") from None


def join(directory: str, name: str) -> str:
    """Returns the path of `name` in `directory`."""
    return f"{directory.rstrip('/')}/{name}" if is_remote(directory) else f"{directory}/{name}"


def sizes(directory: str) -> dict[str, int]:
    """Returns the name and size in bytes of every file directly in `directory`.

    Raises:
      UserError: there is no such folder.
    """
    try:
        if is_remote(directory):
            entries = filesystem(directory).ls(directory, detail=True, refresh=True)
            return {
                e["name"].rstrip("/").rsplit("/", 1)[-1]: int(e["size"])
                for e in entries
                if e["type"] == "file"
            }
        with os.scandir(directory) as found:
            return {e.name: e.stat().st_size for e in found if e.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} is not a folder: check the path.") from None


def read(path: str) -> bytes:
    """Returns the content of a file.

    Raises:
      FileNotFoundError: there is no such file.
    """
    if is_remote(path):
        return cast(bytes, filesystem(path).cat_file(path))
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """Yields a file that appears under `path` once it is complete and synced, or not at all.

    On this machine that is a temporary name, fsync and rename. A URL's file is made here and
    uploaded whole, since an interrupted upload of some stores leaves a truncated file.
    """
    if is_remote(path):
        with tempfile.TemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            with filesystem(path).open(path, "wb") as target:
                while block := file.read(1 << 24):
                    target.write(block)
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise
    _sync_folder(os.path.dirname(path) or ".")


def _sync_folder(path: str) -> None:
    """Makes a rename in the folder survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str) -> None:
    """Makes a folder and its parents where the store has folders."""
    if is_remote(path):
        filesystem(path).makedirs(path, exist_ok=True)
        return
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} can't be made: {error.strerror}.") from None


def remove_folder(path: str) -> None:
    """Removes a folder and what is in it."""
    if is_remote(path):
        filesystem(path).rm(path, recursive=True)
    else:
        shutil.rmtree(path)
