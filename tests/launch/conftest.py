"""The simulated cloud of the tests of the launcher."""

import os
import shutil
import subprocess

import pytest
from simulated_cloud import GCLOUD, PYTHON, SCRIPT, SLEEP


@pytest.fixture
def cloud(tmp_path):
    """Runs the script with a fake cloud of folders: (arguments, behavior of main.py) -> result."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("gcloud", GCLOUD), ("python3", PYTHON), ("sleep", SLEEP)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(SCRIPT, checkout)
    (checkout / "requirements.txt").touch()

    def run(*arguments, main="exit 0"):
        (tmp_path / "main").write_text(main)
        environment = os.environ | {
            "CLOUD": str(tmp_path), "PATH": f"{tools}:{os.environ['PATH']}",
        }  # fmt: skip
        return subprocess.run(
            [checkout / SCRIPT.name, *arguments],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    run.path = tmp_path
    return run
