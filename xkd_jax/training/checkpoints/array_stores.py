"""Access of Orbax and TensorStore to the folders of checkpoints, on disks and in buckets.

TensorStore writes and reads the arrays of `gs://` and `s3://` by itself, from every host. Orbax
uses this for `gs://` only, and reads its own small files with etils, without retries and without
the listing of `storage`. `use_our_stores` replaces both: arrays get the spec of `kvstore`, files
our `storage`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Callable
from typing import Any

from etils import epath
from etils.epath import backend, gpath
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from data_pipelines.errors import UnreachableError
from data_pipelines.format import filesystems, retries, storage
from xkd_jax.config.value_checks import STORES


def kvstore(folder: str) -> dict[str, Any]:
    """Returns TensorStore's spec of the files below a folder or URL.

    The number of attempts at a request is that of `retries`.
    """
    if not storage.is_remote(folder):
        return {"driver": "file", "path": f"{folder}/"}
    scheme, _, rest = folder.partition("://")
    bucket, _, path = rest.partition("/")
    repeated = {
        "max_retries": retries.TRIES,
        "initial_delay": f"{retries.FIRST_WAIT}s",
        "max_delay": f"{retries.FIRST_WAIT * 2**retries.TRIES}s",
    }
    if scheme == "gs":
        driver = os.environ.get("TENSORSTORE_GCS_BACKEND", "gcs")
        return {"driver": driver, "bucket": bucket, "path": path, "gcs_request_retries": repeated}
    return {
        "driver": "s3",
        "bucket": bucket,
        "path": path,
        "s3_request_retries": repeated,
        **_s3_settings(),
    }


def _s3_settings() -> dict[str, Any]:
    """Returns the settings that boto takes from the environment, and TensorStore does not."""
    at = os.environ
    found: dict[str, Any] = {}
    if endpoint := at.get("AWS_ENDPOINT_URL_S3") or at.get("AWS_ENDPOINT_URL"):
        found["endpoint"] = endpoint
    if region := at.get("AWS_REGION") or at.get("AWS_DEFAULT_REGION"):
        found["aws_region"] = region
    if at.get("AWS_ACCESS_KEY_ID"):
        found["aws_credentials"] = {"type": "environment"}
    return found


@functools.cache
def use_our_stores() -> None:
    """Replaces Orbax's specs of TensorStore for URLs, and etils' access to them."""
    # A connection that delivers nothing is given up, and the request repeated.
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "60")
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    of_local_folder: Callable[[str], str] = tensorstore_utils._normalize_path
    patched: Any = tensorstore_utils
    patched._use_gcs_driver = storage.is_remote
    patched._normalize_path = lambda path: (
        path.rstrip("/") if storage.is_remote(path) else of_local_folder(path)
    )
    gcs_utils.get_kvstore_for_gcs = kvstore
    paths: Any = gpath
    paths._is_tf_installed = lambda: False  # etils would read with TensorFlow and its credentials
    for scheme in STORES:
        paths._PREFIX_TO_BACKEND[scheme] = _Storage()


class _Storage(type(backend.fsspec_backend)):  # type: ignore[misc]
    """etils' access to files by `storage`."""

    def fs(self, path: epath.PathLike) -> Any:
        return filesystems.of(os.fspath(path))

    def open(self, path: epath.PathLike, mode: str) -> Any:
        url = os.fspath(path)
        if "w" in mode:
            return _Text(_Written(url)) if "b" not in mode else _Written(url)
        content = io.BytesIO(storage.read(url))
        return content if "b" in mode else io.TextIOWrapper(content, "utf-8")

    def exists(self, path: epath.PathLike) -> bool:
        url = os.fspath(path)
        return storage.exists(url) or storage.is_folder(url)

    def isdir(self, path: epath.PathLike) -> bool:
        return storage.is_folder(os.fspath(path))

    def listdir(self, path: epath.PathLike) -> list[str]:
        files, folders = storage.listed(os.fspath(path))
        return [*files, *folders]

    def glob(self, path: epath.PathLike) -> list[str]:
        url = os.fspath(path)
        return list(retries.with_retries(url, super().glob, url))

    def remove(self, path: epath.PathLike) -> None:
        """Removes an object if permissions allow it; Orbax calls this before it replaces one."""
        with contextlib.suppress(UnreachableError):
            storage.remove(os.fspath(path))

    def makedirs(self, path: epath.PathLike, **options: Any) -> None:
        """Does nothing: a folder of a bucket is the prefix of its objects."""

    mkdir = makedirs


class _Written(io.BytesIO):
    """A file that becomes an object when it is closed."""

    def __init__(self, url: str):
        super().__init__()
        self._url = url

    def close(self) -> None:
        if not self.closed:
            storage.write(self._url, self.getvalue())
        super().close()


class _Text(io.TextIOWrapper):
    """`_Written` for text."""

    def __init__(self, file: _Written):
        super().__init__(file, "utf-8")
