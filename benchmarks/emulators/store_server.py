"""Servers that emulate a store, with the bucket `bucket`: `s3` by moto, `gs` by `gcs_emulator`.

As a program (argument: the scheme), prints the URL of a server, and ends with standard input.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

ZONE = "us-east-1"
# {scheme: variables with the URL of the server}.
SERVER_VARIABLES = {
    "s3": ("AWS_ENDPOINT_URL",),
    "gs": ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"),
}
# {scheme: other variables of a process that uses an emulator}.
_VARIABLES = {
    "s3": {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": ZONE,
    },
    "gs": {
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # read at the import: no gRPC
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
        "FSSPEC_GS_TOKEN": "anon",
    },
}  # fmt: skip


def environment(scheme: str, url: str) -> dict[str, str]:
    """Returns the variables of a process that uses a server.

    Args:
      scheme: s3 or gs.
      url: of the server, or of a proxy before it.
    """
    return _VARIABLES[scheme] | dict.fromkeys(SERVER_VARIABLES[scheme], url)


def start(scheme: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a server; returns its process, which ends with this one, and its URL.

    Args:
      scheme: s3 or gs.
    """
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), scheme],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        # Signals to the process group of this program must not reach the server.
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def _serve_s3() -> str:
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
    return url


def _serve_gs() -> str:
    import gcs_emulator  # beside this program

    return gcs_emulator.start()


if __name__ == "__main__":
    print({"s3": _serve_s3, "gs": _serve_gs}[sys.argv[1]](), flush=True)
    sys.stdin.read()
