"""Two processes that make the shards of one folder of videos."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import media_files
import pytest
from coordinator import free_port

TESTS = Path(__file__).parents[1]
# One process of a run, up to its data; shards have two files each.
PROGRAM = """
import dataclasses, sys
from pathlib import Path
from method_inputs import change
from small_run import SMALL
from data_pipelines.build import build_plan
from xkd_jax.parallel import processes
from xkd_jax.training.data import run_data
if __name__ == "__main__":
    port, count, index, videos, workdir = sys.argv[1:]
    build_plan.FILES_PER_SHARD = 2
    if count != "1":
        processes.start(f"localhost:{port}", int(count), int(index))
    config = dataclasses.replace(SMALL, modalities=("video",))
    config = change(config, data={"videos": videos, "short_side": 16})
    run_data.directory(config, config.probe, Path(workdir))
"""


@pytest.mark.heavy
def test_processes_share_the_files_and_give_the_bytes_of_one(tmp_path):
    videos, program = tmp_path / "videos", tmp_path / "program.py"
    videos.mkdir()
    for i in range(9):
        media_files.write(videos / f"{i}.mp4", media_files.gray_frames([20 * i] * 30))
    program.write_text(PROGRAM)

    def run(count):
        port = free_port()
        workdir = tmp_path / f"of_{count}"
        started = [
            subprocess.Popen(
                [sys.executable, program, f"{port}", f"{count}", f"{i}", videos, workdir],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env=os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
            )
            for i in range(count)
        ]  # fmt: skip
        told = [process.communicate(timeout=300)[0] for process in started]
        assert [process.returncode for process in started] == [0] * count, told
        files = (workdir / "data").glob("*.tfrecord-*")
        return told, {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    alone, expected = run(1)
    told, found = run(2)
    assert found == expected
    assert len(found) == 10  # five shards with their indexes
    assert "built     9/9 " in alone[0]
    assert "built     5/5 " in told[0]  # the shards 0, 2 and 4
    assert "each of 2 processes makes a part" in told[0]
    assert "built" not in told[1]
