"""Conditional writes to a store: create if absent, replace if unchanged.

fsspec has no such calls, so each store needs a few lines here. Amazon S3 compares entity tags
(`If-Match`, `If-None-Match`), Google Cloud Storage compares generations (`ifGenerationMatch`). A
store that is not in the table, or that ignores the conditions, is refused by `require`.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from typing import Any, NamedTuple, Protocol

from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import filesystems, storage
from data_pipelines.format.retries import with_retries


class Held(NamedTuple):
    """An object of a store.

    content: all bytes.
    version: changes with each write; opaque.
    """

    content: bytes
    version: str


class _Store(Protocol):
    """The calls of one kind of store, without retries."""

    def read(self, system: Any, url: str) -> Held:
        """Returns an object with its version, at one moment; FileNotFoundError: it is absent."""

    def write(self, system: Any, url: str, content: bytes, version: str | None) -> str:
        """Writes if the version is still this one (None: no object).

        Returns:
          The new version.

        Raises:
          FileExistsError: it is not.
        """


class _S3:
    """Amazon S3, and servers of its interface."""

    def read(self, system: Any, url: str) -> Held:
        from fsspec import asyn  # slow to import, and runs in a folder don't need it

        bucket, key, _ = system.split_path(url)

        async def get() -> Held:
            answer = await system._call_s3("get_object", Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                return Held(await body.read(), answer["ETag"])

        return asyn.sync(system.loop, get)

    def write(self, system: Any, url: str, content: bytes, version: str | None) -> str:
        bucket, key, _ = system.split_path(url)
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        where = {"Bucket": bucket, "Key": key}
        try:
            return system.call_s3("put_object", **where, Body=content, **condition)["ETag"]
        except OSError as error:
            code = _code(error)
            if code in _CHANGED or (version is not None and code == "NoSuchKey"):
                raise FileExistsError(url) from None
            if code in ("NotImplemented", "501"):
                raise NotImplementedError(url) from None
            raise


# Of Amazon S3: the condition does not hold, or another write happened at the same time.
_CHANGED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")


def _code(error: BaseException) -> str:
    """Returns the store's code of an error that s3fs translated."""
    answer = getattr(error.__cause__ or error, "response", {})
    return str(answer.get("Error", {}).get("Code", ""))


class _Gcs:
    """Google Cloud Storage."""

    def read(self, system: Any, url: str) -> Held:
        bucket, key, _ = system.split_path(url)
        headers, content = system.call("GET", "b/{}/o/{}", bucket, key, alt="media")
        return Held(content, headers["X-Goog-Generation"])

    def write(self, system: Any, url: str, content: bytes, version: str | None) -> str:
        bucket, key, _ = system.split_path(url)
        return system.call(
            "POST", f"{system._location}/upload/storage/v1/b/{bucket}/o", name=key,
            uploadType="media", ifGenerationMatch=version or "0", data=content, json_out=True,
        )["generation"]  # fmt: skip


class _Memory:
    """Objects in this process."""

    _lock = threading.Lock()

    def read(self, system: Any, url: str) -> Held:
        content = system.cat_file(url)
        return Held(content, content.hex())

    def write(self, system: Any, url: str, content: bytes, version: str | None) -> str:
        with self._lock:
            if (self.read(system, url).version if system.exists(url) else None) != version:
                raise FileExistsError(url)
            system.pipe_file(url, content)
        return content.hex()


_STORES: dict[str, _Store] = {"s3": _S3(), "gs": _Gcs(), "memory": _Memory()}


def _store(url: str) -> _Store:
    scheme = url.split("://", 1)[0]
    if scheme not in _STORES:
        raise UserError(
            f"{url} is in a store without conditional writes, which keep two runs apart: give a"
            " folder that all hosts share, or a bucket of gs:// or s3://."
        )
    return _STORES[scheme]


def read(url: str) -> Held | None:
    """Returns an object with its version; None if there is none.

    Raises:
      UserError: the store has no conditional writes.
      UnreachableError: it does not respond, or denies access.
    """
    store, system = _store(url), filesystems.of(url)
    try:
        return with_retries(url, store.read, system, url)
    except FileNotFoundError:
        return None


def write(url: str, content: bytes, version: str | None) -> str | None:
    """Writes an object if it has not changed.

    A try whose answer is lost may have written. The next try is then refused, and finds `content`
    in the store; so each writer's content should be unique.

    Args:
      url: of the object.
      content: all bytes.
      version: of the object to be replaced; None: there must be none.

    Returns:
      The new version; None if the object is another one.

    Raises:
      UserError, UnreachableError: as in `read`.
    """
    store, system = _store(url), filesystems.of(url)

    def attempt() -> str | None:
        try:
            return store.write(system, url, content, version)
        except FileExistsError:
            return None

    if (written := with_retries(url, attempt)) is not None:
        return written
    found = read(url)
    return found.version if found is not None and found.content == content else None


def require(folder: str) -> None:
    """Checks that the store of a folder has the guarantees of a run.

    Args:
      folder: URL.

    Raises:
      UserError: it ignores a condition, or does not list or return what was just written.
      UnreachableError: it does not respond, or denies access.
    """
    url = storage.join(folder, f".probe-{secrets.token_hex(8)}")
    try:
        lacking = _lacking(url, folder)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is in a bucket that does not exist: create it, or give another one."
        ) from None
    with contextlib.suppress(UnreachableError):  # deleting may be forbidden
        storage.remove(url)
    if lacking:
        raise UserError(
            f"The store of {folder} does not {lacking}, so that two runs could write there: give a"
            " folder that all hosts share, or another bucket."
        )


def _lacking(url: str, folder: str) -> str:
    """Returns the operation that a store fails to do with a new object, or an empty text."""
    first, second = b"first", b"second"
    try:
        version = write(url, first, None)
        if version is None or write(url, second, None) is not None:
            return "create an object only if it is absent"
        if write(url, second, version) is None or write(url, first, version) is not None:
            return "replace an object only if it is unchanged"
    except NotImplementedError:
        return "write under a condition"
    if storage.read(url) != second or url.rsplit("/", 1)[-1] not in storage.sizes(folder):
        return "show at once what was written"
    return ""
