"""Processes that hold leases, for tests of other processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines import lease

HERE = Path(__file__).parent
LONG = "60"  # seconds; no test waits so long


def wait_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process waits for a lease as long as a `lease_holder` does."""
    monkeypatch.setattr(lease, "PATIENCE", 0.3)
    monkeypatch.setattr(lease, "POLL", 0.02)


class Process:
    """A `lease_holder` process, which is killed at the end of the context."""

    def __init__(self, folder, *arguments):
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "lease_holder.py"), str(folder), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.communicate()

    def line(self):
        return self._process.stdout.readline().strip()

    def tell(self, command):
        self._process.stdin.write(command + "\n")

    def send(self, number):
        self._process.send_signal(number)

    def status(self):
        return self._process.wait(30)

    def rest(self):
        return self._process.communicate(timeout=30)[0].strip()
