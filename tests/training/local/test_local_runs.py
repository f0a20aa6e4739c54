"""Runs with checkpoints on the host's own disk."""

import noise_shards
import pytest
import tiny_state
from failing_calls import Killed, kill_after

from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training import train as training
from xkd_jax.training.local.local_checkpoints import LocalCheckpoints
from xkd_jax.training.logs import goodput_file


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The run saves in its folder only at the end."""
    tiny_state.use_in_runs(monkeypatch)
    changes = {"checkpoint.every_steps": 0, "max_steps": 4, "pictures_every": 0}
    local = {"local_checkpoints.dir": str(tmp_path / "disk"), "local_checkpoints.every_steps": 1}
    return noise_shards.config(tmp_path / "shards", **changes, **local)


def test_restart_from_the_hosts_disk_is_counted_as_restore(config, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        kill_after(patch, mesh_lib, "put_batch", 3)
        with pytest.raises(Killed):
            training.train(config, tmp_path / "run")
    first = goodput_file.read(tmp_path / "run")
    assert first.seconds["restore"] == 0
    training.train(config, tmp_path / "run")
    assert f"the hosts' folders {tmp_path}/disk" in capsys.readouterr().out
    assert goodput_file.read(tmp_path / "run").seconds["restore"] > 0


def test_files_that_a_killed_run_has_left_are_removed_by_its_next_start(
    config, tmp_path, monkeypatch
):
    """The process was killed between its last save and the removal."""
    with monkeypatch.context() as patch:
        kill_after(patch, LocalCheckpoints, "remove", 0)
        with pytest.raises(Killed):
            training.train(config, tmp_path / "run")
    assert list((tmp_path / "disk").iterdir())
    assert not training.train(config, tmp_path / "run")
    assert not list((tmp_path / "disk").iterdir())
