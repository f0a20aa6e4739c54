import dataclasses
import json
import shutil

import jax
import noise_shards
import numpy as np
import pytest
import tiny_state
from method_inputs import change

from data_pipelines.errors import TrainingDivergedError, UserError
from data_pipelines.read.dataset import open_dataset
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training import train as training
from xkd_jax.training.checkpoint import Checkpoints
from xkd_jax.training.loop import is_due


@pytest.fixture(scope="module")
def shards_dir(tmp_path_factory):
    return noise_shards.write(str(tmp_path_factory.mktemp("shards")))


@pytest.fixture
def config(small, shards_dir):
    config = change(
        small,
        audio={"hop": 250},
        data={"dir": shards_dir, "short_side": 16, "threads": 2},
        checkpoint={"every_steps": 2},
        optimizer={"warmup_epochs": 0.0, "learning_rate": 1e-3},
    )
    return dataclasses.replace(config, max_steps=5, log_every=2)


def final_state(config, workdir):
    like = training.Run.create(config, training.Length(5, 3), mesh_lib.make_mesh(config.mesh)).like
    digest = open_dataset(config, config.data.dir, "train").digest
    with Checkpoints(workdir / "checkpoints", config, 24, digest) as checkpoints:
        assert checkpoints.latest() == 5
        return checkpoints.restore(like)


class Killed(BaseException):
    pass


def kill_after(monkeypatch, batches):
    put, seen = mesh_lib.put_batch, []

    def put_or_die(*args):
        seen.append(1)
        if len(seen) > batches:
            raise Killed
        return put(*args)

    monkeypatch.setattr(training.mesh_lib, "put_batch", put_or_die)


def test_a_killed_run_ends_as_one_that_was_not(config, tmp_path, monkeypatch, capsys):
    training.train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(Killed):
            training.train(config, tmp_path / "killed")
    training.train(config, tmp_path / "killed")
    assert "resume    from step 2" in capsys.readouterr().out
    whole, killed = (final_state(config, tmp_path / name) for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, whole, killed)


def test_data_may_move_and_must_not_be_replaced(config, tmp_path, monkeypatch, capsys):
    """The other data set has the same name, rates, number of records and of shards."""
    monkeypatch.setattr(
        training.Run, "create", lambda config, length, mesh: tiny_state.run(config, length.steps)
    )

    def resume(folder, steps):
        moved = change(config, data={"dir": str(folder)})
        training.train(dataclasses.replace(moved, max_steps=steps), tmp_path / "run")

    resume(config.data.dir, 2)
    shutil.copytree(config.data.dir, tmp_path / "moved")
    for index in (tmp_path / "moved").glob("*.index"):
        index.unlink()
    resume(tmp_path / "moved", 3)
    assert "resume    from step 2" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "moved")
    noise_shards.write(str(tmp_path / "moved"), seed=1)
    with pytest.raises(UserError, match=r"holds a run on other data .*: restore the records"):
        resume(tmp_path / "moved", 4)
    resume(config.data.dir, 4)
    assert "resume    from step 3" in capsys.readouterr().out


def test_a_run_says_what_it_does_and_probes(config, tmp_path, capsys):
    config = dataclasses.replace(
        config,
        probe=dataclasses.replace(config.probe, enabled=True, knn_every=4, k=5),
        max_steps=5,
    )
    training.train(config, tmp_path)
    printed = capsys.readouterr().out
    assert "step 2/5  loss" in printed
    assert "clips/s" in printed
    assert "embed -> fsdp" in printed
    assert printed.count("student audio ") == printed.count("teacher video ") == 2
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 8
    assert list((tmp_path / "tensorboard").glob("events*"))
    scores = json.loads((tmp_path / "results.json").read_text())["linear_probe_top1"]
    assert scores["after"].keys() == {
        f"{a} {b}" for a in ("student", "teacher") for b in ("video", "audio")
    }
    assert scores["before"]["student audio"] == scores["before"]["teacher audio"]
    assert min(scores["after"].values()) > 80  # brightness and loudness are easy to read off


def test_a_loss_that_is_not_finite_stops_the_run(config, tmp_path):
    config = change(config, optimizer={"learning_rate": 1e30})
    with pytest.raises(TrainingDivergedError) as error:
        training.train(config, tmp_path)
    assert error.value.step >= 2
    assert "is not finite" in str(error.value)
    assert "loss/" in error.value.term
    saved = [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert not [step for step in saved if int(step) >= error.value.step]


def test_no_data_is_one_sentence(config, tmp_path):
    with pytest.raises(UserError, match=r"data\.dir is empty"):
        training.train(change(config, data={"dir": ""}), tmp_path)


@pytest.mark.parametrize(
    "step,every,last,due",
    [(4, 2, 9, True), (5, 2, 9, False), (9, 2, 9, True), (9, 0, 9, True), (4, 0, 9, False)],
)
def test_what_is_due(step, every, last, due):
    assert is_due(step, every, last) == due
