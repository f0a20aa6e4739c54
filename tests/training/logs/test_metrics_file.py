"""Lines of metrics: one for each logged step, also over restarts and full disks."""

import json
import math
import resource

import failing_calls
import pytest

from data_pipelines.format import storage
from data_pipelines.format.storage import Url
from xkd_jax.training.logs.metrics_file import FILE, MetricsFile


@pytest.fixture(params=["folder", "bucket"])
def workdir(request, tmp_path):
    """A folder, or a URL of fsspec's file system in memory."""
    return tmp_path / "run" if request.param == "folder" else Url(f"memory://{tmp_path}/run")


def begun(workdir, start=0):
    return MetricsFile(workdir, start, clock=lambda: 1764190000.1234)


def rows(workdir):
    return [json.loads(line) for line in storage.read(str(workdir / FILE)).splitlines()]


def losses(workdir):
    return {row["step"]: row["loss"] for row in rows(workdir)}


def test_each_step_is_a_line_of_all_its_scalars(workdir):
    file = begun(workdir)
    file.write(1, {"loss": 2.5, "speed/clips_per_second": 8})
    file.write(1, {"knn/student_video": 50.0})
    file.write(2, {"loss": math.nan, "gradient_norm": math.inf})
    file.close()
    time = 1764190000.123
    assert rows(workdir) == [
        {"step": 1, "time": time, "loss": 2.5, "speed/clips_per_second": 8.0,
         "knn/student_video": 50.0},
        {"step": 2, "time": time, "loss": None, "gradient_norm": None},
    ]  # fmt: skip


@pytest.mark.parametrize("unfinished", [b"", b'{"step": 4, "ti', b"\x00\xff"])
def test_resumed_run_has_every_step_once(workdir, unfinished):
    """The first start is killed after step 3, while it writes the next line."""
    file = begun(workdir)
    for step in (1, 2, 3):
        file.write(step, {"loss": 1.0})
        file.flush()
    storage.write(str(workdir / FILE), storage.read(str(workdir / FILE)) + unfinished)
    again = begun(workdir, start=2)
    for step in (3, 4):
        again.write(step, {"loss": 2.0})
    again.close()
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4]
    assert losses(workdir) == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}


def test_lines_are_stored_when_a_checkpoint_is_saved(workdir):
    file = begun(workdir)
    for step in range(1, 200):
        file.write(step, {"loss": float(step)})
        if step % 50 == 0:
            file.flush()
            assert sorted(losses(workdir)) == list(range(1, step + 1))


def test_bytes_sent_to_a_bucket_are_proportional_to_the_file(monkeypatch):
    sent, write = [], storage.write

    def count(path, content):
        sent.append(len(content))
        write(path, content)

    monkeypatch.setattr(storage, "write", count)
    file = begun(Url("memory://proportional"))
    for step in range(2000):
        file.write(step, {"loss": 1.0})
    file.close()
    assert sum(sent) < 20 * sent[-1]
    assert sorted(losses(Url("memory://proportional"))) == list(range(2000))


def test_lost_writes_are_a_warning_and_appear_later(monkeypatch, capsys):
    workdir = Url("memory://lost/run")
    failing_calls.lose_writes(monkeypatch, 2)
    file = begun(workdir)
    for step in (1, 2, 3):
        file.write(step, {"loss": float(step)})
    assert "continuing without lines of metrics until it can" in capsys.readouterr().err
    assert losses(workdir) == {1: 1.0, 2: 2.0, 3: 3.0}


def test_full_disk_leaves_whole_lines(tmp_path, capsys):
    file = begun(tmp_path)
    file.write(1, {"loss": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / FILE).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 9, limits[1]))
    try:
        file.write(2, {"loss": 2.0})
        assert losses(tmp_path) == {1: 1.0}
        file.write(3, {"loss": 3.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err.count("can't be written to (") == 1
    file.write(4, {"loss": 4.0})
    assert losses(tmp_path) == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0}


def test_run_without_steps_changes_nothing(tmp_path):
    file = begun(tmp_path / "run")
    file.close()
    assert not (tmp_path / "run").exists()
