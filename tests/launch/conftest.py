"""The simulated cloud of the tests of the launcher."""

import contextlib
import os
import shutil
import subprocess

import pytest
from simulated_cloud import GCLOUD, PYTHON, SCRIPT, SLEEP


@pytest.fixture
def cloud(tmp_path):
    """Runs the script with a fake cloud of folders: (arguments, behavior of main.py) -> result.

    `cloud.started` starts it instead, and ends it at the end of its context.
    """
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("gcloud", GCLOUD), ("python3", PYTHON), ("sleep", SLEEP)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(SCRIPT, checkout)
    (checkout / "requirements.txt").touch()

    def environment():
        return os.environ | {"CLOUD": str(tmp_path), "PATH": f"{tools}:{os.environ['PATH']}"}

    def run(*arguments, main="exit 0"):
        (tmp_path / "main").write_text(main)
        return subprocess.run(
            [checkout / SCRIPT.name, *arguments],
            env=environment(), capture_output=True, text=True, timeout=200,
        )  # fmt: skip

    @contextlib.contextmanager
    def started(*arguments, main):
        (tmp_path / "main").write_text(main)
        process = subprocess.Popen(
            [checkout / SCRIPT.name, *arguments], env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    run.path, run.started = tmp_path, started
    return run
