"""Machines without a writable folder for numba's cache."""

import io
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

import numba
import pytest

from data_pipelines.errors import UserError
from data_pipelines.format import numba_cache

ROOT = pathlib.Path(__file__).parents[2]
# Emulates a read-only installation, as root may write everywhere.
READ_ONLY = """
import os, sys, tempfile
make = tempfile.TemporaryFile
def refuse(*args, dir=None, **options):
    if dir and not str(dir).startswith(os.environ["TMPDIR"]):
        raise OSError(30, "Read-only file system", dir)
    return make(*args, dir=dir, **options)
tempfile.TemporaryFile = refuse
import numpy as np
from data_pipelines.format import log_mel
print(log_mel.log_mel(np.zeros(16000, np.float32)).shape, os.environ["NUMBA_CACHE_DIR"])
"""


@pytest.mark.heavy
def test_spectrogram_with_only_temporary_folder_writable(tmp_path):
    environment = os.environ | {
        "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": "/proc/nowhere",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY], env=environment, cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"(80, 112) {tmp_path}/numba-")


def _allow_files_in(folder, monkeypatch):
    """Permits new files below one folder only."""
    make = tempfile.TemporaryFile

    def make_or_refuse(*args, dir=None, **options):
        if str(dir).startswith(folder):
            return make(*args, dir=dir, **options)
        raise OSError(30, "Read-only file system", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", make_or_refuse)


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> pathlib.Path:
    """The temporary folder, the only writable one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    _allow_files_in(str(tmp_path), monkeypatch)
    return tmp_path


def test_cache_folder_is_private_and_reused(nowhere):
    numba_cache.ensure_folder()
    folder = os.environ["NUMBA_CACHE_DIR"]
    assert folder == numba.config.CACHE_DIR
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    numba.config.CACHE_DIR = ""
    numba_cache.ensure_folder()
    assert os.environ["NUMBA_CACHE_DIR"] == folder


@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_folder_writable_by_others_is_not_used(nowhere, trap):
    """numba unpickles what it finds in its cache."""
    path = nowhere / f"numba-{os.getuid()}"
    if trap == "open":
        path.mkdir()
        path.chmod(0o777)
    elif trap == "link":
        (nowhere / "elsewhere").mkdir(mode=0o700)
        path.symlink_to(nowhere / "elsewhere")
    else:
        path.touch(mode=0o600)
    numba_cache.ensure_folder()
    folder = os.environ["NUMBA_CACHE_DIR"]
    assert folder not in (str(path), str(nowhere / "elsewhere"))
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_writable_cache_is_unchanged(nowhere, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(nowhere / "mine"))
    numba_cache.ensure_folder()
    assert str(nowhere / "mine") == numba.config.CACHE_DIR
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: io.BytesIO())
    monkeypatch.setattr(os, "makedirs", lambda *args, **options: None)
    numba_cache.ensure_folder()
    assert numba.config.CACHE_DIR == ""


def test_no_temporary_folder_is_one_sentence(nowhere, monkeypatch):
    _allow_files_in(str(nowhere / "not this one"), monkeypatch)

    def refuse(*args, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(UserError, match=r"\(Read-only file system\): set NUMBA_CACHE_DIR to a"):
        numba_cache.ensure_folder()
