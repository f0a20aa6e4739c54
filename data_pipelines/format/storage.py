"""Files of data sets and runs, on a local disk or in remote storage (`gs://`, `s3://`).

URLs are accessed by fsspec (`filesystems`). Accesses with transient errors are retried (`retries`).
`file_tree` lists the files of all sub-folders, and `conditional` has conditional writes.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, cast

from data_pipelines import durable
from data_pipelines.errors import UnreachableError, UserError, file_error
from data_pipelines.format import filesystems
from data_pipelines.format.retries import FULL, with_retries

# At least two letters: one letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_ONE_SLASH = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+:)/(?!/)")


def is_remote(path: str) -> bool:
    """Whether `path` is a URL, SCHEME://..., and not a local path."""
    return _URL.match(path) is not None


def can_list(path: str) -> bool:
    """Whether files can be listed with their sizes; HTTP has no request for this."""
    return not path.startswith(("http://", "https://"))


class Url(PurePosixPath):
    """A URL with the operations of a path; `str` has both slashes after its scheme."""

    def __str__(self) -> str:
        return _ONE_SLASH.sub(r"\1//", super().__str__())


def location(text: str) -> PurePath:
    """Returns the `Path` or the `Url` that a flag or an argument gives."""
    return Url(text) if is_remote(text) else Path(text)


def join(directory: str, name: str) -> str:
    """Returns the path of `name` in `directory`; `name` is text, see `walk`."""
    if is_remote(directory):
        return f"{directory.rstrip('/')}/{name}"
    return f"{directory}/{os.fsdecode(name.encode('utf-8', 'surrogateescape'))}"


def as_text(path: str) -> str:
    """Returns a local path as text, by decoding its bytes as UTF-8.

    Python decodes names by the locale; this result does not depend on it.
    """
    return path if is_remote(path) else os.fsencode(path).decode("utf-8", "surrogateescape")


def listed(url: str) -> tuple[dict[str, int], list[str]]:
    """Lists the files and folders directly below a URL, all at the same moment.

    Returns:
      The size in bytes of every file by its name, and the names of the folders, sorted.

    Raises:
      FileNotFoundError: there is nothing.
      UserError: HTTP has no listing.
      UnreachableError: the storage does not respond.
    """
    if not can_list(url):
        raise UserError(f"{url} can't be listed by HTTP: copy it to a folder or a bucket.")
    files: dict[str, int] = {}
    folders: set[str] = set()
    for entry in with_retries(url, filesystems.of(url).ls, url, detail=True):
        name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
        if entry["type"] == "file":
            files[name] = int(entry["size"])
        elif entry["type"] == "directory":
            folders.add(name)
    return files, sorted(folders)


def sizes(directory: str) -> dict[str, int]:
    """Returns the name and size in bytes of every file directly in `directory`.

    Raises:
      UserError: there is no such folder, or it can't be listed.
      UnreachableError: the storage does not respond.
    """
    try:
        if is_remote(directory):
            return listed(directory)[0]
        with os.scandir(directory) as found:
            return {e.name: e.stat().st_size for e in found if e.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} is not a folder: check the path.") from None
    except OSError as error:
        raise cannot_list(directory, error) from None


def cannot_list(directory: str, error: OSError) -> UserError:
    """Returns the error of a local folder that can't be listed."""
    return file_error(
        error, f"{directory} can't be listed ({error.strerror}): make it readable, or remove it."
    )


def subfolders(directory: str) -> list[str]:
    """Returns the names of the folders directly in `directory`, sorted; none if it is missing.

    Raises:
      UserError: it can't be listed.
      UnreachableError: the storage does not respond.
    """
    try:
        if is_remote(directory):
            return listed(directory)[1]
        with os.scandir(directory) as found:
            return sorted(e.name for e in found if e.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise cannot_list(directory, error) from None


def _kind(url: str) -> str:
    """Returns "file", "directory" or, if there is neither, an empty text.

    fsspec's own tests of existence return False after any error.
    """
    try:
        kind = str(with_retries(url, filesystems.of(url).info, url)["type"])
    except FileNotFoundError:
        return ""
    # A web server answers for a folder as for a file.
    return kind if can_list(url) or not url.endswith("/") else "directory"


def exists(path: str) -> bool:
    """Returns whether a path or URL is an existing file; False for a folder."""
    if is_remote(path):
        return _kind(path) == "file"
    return os.path.isfile(path)


def is_folder(path: str) -> bool:
    """Returns whether a folder exists; a folder in a bucket exists if it has an object."""
    if is_remote(path):
        return _kind(path) == "directory"
    return os.path.isdir(path)


def read(path: str, max_bytes: int | None = None) -> bytes:
    """Returns the content of a file, or its first `max_bytes` bytes.

    Raises:
      FileNotFoundError: there is no such file.
      UnreachableError: remote storage does not respond.
    """
    if is_remote(path):
        part = {} if max_bytes is None else {"start": 0, "end": max_bytes}
        return cast(bytes, with_retries(path, filesystems.of(path).cat_file, path, **part))
    with open(path, "rb") as file:
        if max_bytes is None:
            return file.read()
        # `read` allocates all requested bytes.
        return file.read(min(max_bytes, os.fstat(file.fileno()).st_size))


def fetch(url: str, file: BinaryIO) -> None:
    """Copies a remote file into an empty local file.

    Raises:
      FileNotFoundError: there is no such file.
      UnreachableError: the storage does not respond, or the local disk is full.
    """

    def copy() -> None:
        file.seek(0)
        file.truncate()
        with filesystems.of(url).open(url, "rb") as remote:
            shutil.copyfileobj(remote, file)
        file.flush()

    try:
        with_retries(url, copy)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UnreachableError(
            f"{url} can't be copied to {tempfile.gettempdir()} ({error.strerror}): free disk"
            " space there."
        ) from None


def read_range(url: str, start: int, end: int) -> bytes:
    """Returns bytes `start` to `end` (exclusive) of a remote file, in one request.

    Raises:
      UserError: the file was removed, or the server has no ranges.
      UnreachableError: the storage does not respond.
    """
    try:
        content = with_retries(url, filesystems.of(url).cat_file, url, start=start, end=end)
    except FileNotFoundError:
        raise UserError(
            f"{url} was removed while in use: restore it, and repeat the command."
        ) from None
    if len(content) > end - start:  # HTTP permits a server to answer with the whole file
        raise UserError(
            f"The server of {url} ignores requests for a range of bytes: use a server that has"
            " them, or copy the data set."
        )
    return cast(bytes, content)


def size(url: str) -> int:
    """Returns the current size in bytes of a remote file; -1 if there is none."""
    try:
        return int(with_retries(url, filesystems.of(url).size, url))
    except FileNotFoundError:
        return -1


@contextlib.contextmanager
def writer(path: str) -> Iterator[BinaryIO]:
    """Yields a file for writing, which appears as `path` only when it is complete and synced.

    A local file is written under a temporary name, synced and renamed. A remote file is written to
    a local temporary file and then uploaded, as an interrupted stream could leave a truncated file.

    Raises:
      UnreachableError: the storage does not respond.
    """
    if is_remote(path):
        with tempfile.NamedTemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.flush()
            with_retries(path, filesystems.of(path).put_file, file.name, path)
        return
    with durable.replacing(path, f"{path}.{os.getpid()}.tmp") as local:
        yield local


def write(path: str, content: bytes) -> None:
    """Replaces a file as a whole; errors are those of `writer`, or the system's for a local file.

    Args:
      path: of the file.
      content: all of it.
    """
    if is_remote(path):
        with_retries(path, filesystems.of(path).pipe_file, path, content)
        return
    with writer(path) as file:
        file.write(content)


def remove(path: str) -> None:
    """Removes a file, if it exists.

    Raises:
      UnreachableError: the storage does not respond or denies it.
      OSError: a local file can't be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        if is_remote(path):
            with_retries(path, filesystems.of(path).rm_file, path)
        else:
            os.remove(path)


def make_folder(path: str) -> None:
    """Creates a folder and its parents; a bucket needs none.

    Raises:
      UserError: the folder can't be created; `UnreachableError` if transient.
    """
    if is_remote(path):
        with_retries(path, filesystems.of(path).makedirs, path, exist_ok=True)
        return
    try:
        durable.make_folders(path)
    except OSError as error:
        raise file_error(
            error, f"{path} can't be created ({error.strerror}): give another folder.", writing=True
        ) from None


def remove_folder(path: str) -> None:
    """Removes a folder and its content, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        if is_remote(path):
            # `rm` interprets the path as a glob.
            with_retries(path, filesystems.of(path).rm, glob.escape(path), recursive=True)
        else:
            shutil.rmtree(path)
