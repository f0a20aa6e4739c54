"""Emulators of Amazon S3 and Google Cloud Storage, with one bucket each, for tests of URLs.

The servers are processes that live as long as this one: threads of a loader may read after a test.
"""

import contextlib
import functools
from collections.abc import Iterator

import pytest

from benchmarks.emulators import store_server

# What a scheme needs: modules, and the extras that have them.
_NEEDED = {
    "s3": (("s3fs", "stores"), ("moto.server", "emulation")),
    "gs": (("gcsfs", "stores"),),
    "memory": (),
}


@contextlib.contextmanager
def bucket(scheme: str) -> Iterator[str]:
    """Yields the URL of a bucket of this scheme, `memory`, `s3` or `gs`; the environment has it."""
    with pytest.MonkeyPatch.context() as patch:
        if scheme != "memory":
            for name, value in store_server.environment(scheme, "").items():
                patch.setenv(name, value)
        for module, extra in _NEEDED[scheme]:
            pytest.importorskip(module, reason=f"the extra '{extra}' is not installed")
        if scheme == "gs":
            import fsspec

            # fsspec may have been imported before the variable of the same meaning was set
            patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        if scheme != "memory":
            use_server(scheme, server(scheme), patch)
        yield f"{scheme}://bucket"


def use_server(scheme: str, url: str, patch: pytest.MonkeyPatch) -> None:
    """Sets the environment so that new clients of a scheme use the server at `url`."""
    import fsspec

    for name in store_server.SERVER_VARIABLES[scheme]:
        patch.setenv(name, url)
    fsspec.get_filesystem_class(scheme).clear_instance_cache()


@functools.cache
def server(scheme: str) -> str:
    """The URL of the emulator of a scheme, which is started."""
    process, url = store_server.start(scheme)
    _kept.append(process)  # its standard input would be closed with it
    return url


_kept: list[object] = []
