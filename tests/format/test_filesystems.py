"""The file system of a URL."""

import re
import subprocess
import sys

import pytest

from data_pipelines.errors import UserError
from data_pipelines.format import filesystems


def test_unknown_scheme_is_named():
    with pytest.raises(UserError, match=r"nowhere://x can't be opened"):
        filesystems.of("nowhere://x")


WITHOUT_PACKAGES = """
import sys
sys.modules["gcsfs"] = sys.modules["s3fs"] = None
from data_pipelines.errors import UserError
from data_pipelines.format import storage
for scheme in ("gs", "s3"):
    try:
        storage.sizes(f"{scheme}://b/x")
    except UserError as error:
        print(error)
"""


def test_missing_package_of_scheme_is_named():
    """In a process that has not opened a URL before."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES], capture_output=True, text=True, check=True
    )
    for line, (scheme, package) in zip(
        done.stdout.splitlines(), (("gs", "gcsfs"), ("s3", "s3fs")), strict=True
    ):
        assert re.search(rf"^{scheme}://b/x can't .*: pip install {package}\.", line)
