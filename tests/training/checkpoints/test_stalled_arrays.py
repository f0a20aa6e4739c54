"""TensorStore's own requests, for the arrays of checkpoints in a bucket, that get no answer.

In a process each, as TensorStore reads its limits once.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import stores

from benchmarks.emulators.fault_proxy import Proxy

TESTS = Path(__file__).parents[2]
LIMIT = 1  # seconds without a byte, 60 in a run


@pytest.fixture
def proxy(bucket, monkeypatch):
    scheme = bucket.partition(":")[0]
    proxy = Proxy(stores.server(scheme))
    stores.use_server(scheme, proxy.url, monkeypatch)
    monkeypatch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", str(LIMIT))
    return proxy


def run(bucket, folder, *steps):
    """Returns the lines that a `saving_process` prints."""
    ran = subprocess.run(
        [sys.executable, str(TESTS / "saving_process.py"), f"{bucket}/{folder}", *steps],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}"}, stdout=subprocess.PIPE, text=True,
        timeout=100,
    )  # fmt: skip
    return ran.stdout.splitlines()


def of_arrays(faults):
    """Chooses the next fault of a request's method, for requests for files of values."""
    return lambda method, path: (
        faults[method].pop() if faults.get(method) and "/d/" in path.replace("%2F", "/") else ""
    )


def test_stalled_requests_are_given_up_and_repeated(proxy, bucket, tmp_path):
    proxy.choose = of_arrays({"GET": ["stall"], "PUT": ["silent"], "POST": ["silent"]})
    resumed, found = run(bucket, tmp_path.name, "1")
    assert resumed.startswith("resume    from step 1, ")
    assert found == "restored 1"
    assert sorted(filter(None, proxy.seen)) == ["silent", "stall"]


def test_save_to_a_store_that_never_answers_ends_with_status_1(proxy, bucket, tmp_path):
    """After as many attempts as for any other access; the process is killed after 100 s."""
    proxy.choose = of_arrays({"PUT": ["silent"] * 1000, "POST": ["silent"] * 1000})
    (line,) = run(bucket, tmp_path.name, "1")
    assert line.startswith("UnreachableError 1 A checkpoint can't be written to ")
