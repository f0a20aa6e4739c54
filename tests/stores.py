"""Emulators of Amazon S3 and Google Cloud Storage, with one bucket each, for tests of URLs.

The servers are processes that live as long as this one: threads of a loader may read after a test.
"""

import contextlib
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ZONE = "us-east-1"


@contextlib.contextmanager
def bucket(scheme: str) -> Iterator[str]:
    """Yields the URL of a bucket of this scheme, `memory`, `s3` or `gs`; the environment has it."""
    with pytest.MonkeyPatch.context() as patch:
        if scheme != "memory":
            {"s3": _use_s3, "gs": _use_gs}[scheme](patch)
        yield f"{scheme}://bucket"


def _use_s3(patch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs", reason="the extra 'stores' is not installed")
    pytest.importorskip("moto.server", reason="no extra 'emulation' is installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", ZONE)
    use_server("s3", server("s3"), patch)
    if not (system := s3fs.S3FileSystem()).exists("bucket"):
        system.mkdir("bucket")


def _use_gs(patch: pytest.MonkeyPatch) -> None:
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read at the import: no gRPC
    pytest.importorskip("gcsfs", reason="the extra 'stores' is not installed")
    import fsspec

    patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "test")
    patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    patch.setenv("FSSPEC_GS_TOKEN", "anon")  # the same, of processes started by a test
    use_server("gs", server("gs"), patch)


def use_server(scheme: str, url: str, patch: pytest.MonkeyPatch) -> None:
    """Sets the environment so that new clients of a scheme use the server at `url`."""
    import fsspec

    variables = {
        "s3": ("AWS_ENDPOINT_URL",),
        "gs": ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"),
    }
    for name in variables[scheme]:
        patch.setenv(name, url)
    fsspec.get_filesystem_class(scheme).clear_instance_cache()


@functools.cache
def server(scheme: str) -> str:
    """The URL of the emulator of a scheme, which is started."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("store_server.py")), scheme],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process.stdout.readline().strip()
