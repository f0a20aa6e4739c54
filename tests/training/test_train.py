import dataclasses
import functools
import json
import shutil
from pathlib import Path

import event_images
import jax
import jax.numpy as jnp
import noise_shards
import numpy as np
import pytest
import tiny_state
from failing_calls import Killed, kill_after
from method_inputs import change

from data_pipelines.errors import TrainingDivergedError, UserError
from data_pipelines.format import file_tree, storage
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.length import Length
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders
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


@pytest.fixture
def created_once(monkeypatch):
    """Runs of one config share their compiled functions."""
    monkeypatch.setattr(training, "run_of", functools.cache(training.run_of))
    compile_step, compiled = training.compile_step, {}

    def compile_once(step, *args, **advice):
        if step not in compiled:
            compiled[step] = compile_step(step, *args, **advice)
        return compiled[step]

    monkeypatch.setattr(training, "compile_step", compile_once)


def final_state(config, workdir):
    run = training.run_of(config, Length(5, 3), mesh_lib.make_mesh(config.mesh))
    digest = open_dataset(config, config.data.dir, "train").digest
    with Checkpoints(workdir / "checkpoints", config, 24, digest) as checkpoints:
        assert checkpoints.latest() == 5
        return checkpoints.restore(run.like)


@pytest.fixture
def reported(config):
    """The runs have probes and pictures."""
    probe = dataclasses.replace(config.probe, enabled=True, knn_every=4, k=5)
    return dataclasses.replace(config, probe=probe, pictures_every=4)


@pytest.mark.slow
def test_run_prints_scores_and_draws_pictures(reported, tmp_path, capsys):
    training.train(reported, tmp_path)
    assert_reported(tmp_path, capsys.readouterr().out)


@pytest.mark.heavy
def test_killed_run_ends_with_identical_state_and_probes(
    reported, tmp_path, monkeypatch, capsys, created_once
):
    config = reported
    training.train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_after(patch, mesh_lib, "put_batch", 3)
        with pytest.raises(Killed):
            training.train(config, tmp_path / "killed")
    training.train(config, tmp_path / "killed")
    assert "resume    from step 2" in capsys.readouterr().out
    whole, killed = (final_state(config, tmp_path / name) for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, whole, killed)


def assert_reported(workdir, printed):
    assert "chance, of 2 classes       50.0     50.0" in printed
    following = (
        f"--config=configs/eval/knn.py:video --config.checkpoint={workdir} --config.data.dir="
    )
    assert f"next      python main.py {following}" in printed
    assert "step 2/5  loss" in printed
    assert "clips/s" in printed
    assert "embed -> fsdp" in printed
    assert printed.count("student audio ") == printed.count("teacher video ") == 2
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 8
    drawn = event_images.images(workdir)
    assert {step: sorted(images) for step, images in drawn.items()} == {
        4: [f"{what}/{m}" for what in ("attention", "reconstruction") for m in ("audio", "video")]
    }
    scores = json.loads((workdir / "results.json").read_text())["linear_probe_top1"]
    assert scores["after"].keys() == {
        f"{a} {b}" for a in ("student", "teacher") for b in ("video", "audio")
    }
    assert scores["before"]["student audio"] == scores["before"]["teacher audio"]
    assert min(scores["after"].values()) > 80  # brightness and loudness are easy to classify


def test_moved_data_is_accepted_and_replaced_data_refused(
    config, tmp_path, workdir, monkeypatch, capsys
):
    """The other data set has the same name, rates, and numbers of records and shards."""
    tiny_state.use_in_runs(monkeypatch)

    def resume(folder, steps):
        moved = change(config, data={"dir": str(folder)})
        training.train(dataclasses.replace(moved, max_steps=steps), workdir)

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


@pytest.fixture
def tiny(monkeypatch):
    tiny_state.use_in_runs(monkeypatch)


def test_finished_run_is_not_changed(config, workdir, capsys, tiny):
    def content():
        files = [workdir / name for name in file_tree.walk(str(workdir))]
        written = [f.stat().st_mtime_ns for f in files if isinstance(f, Path)]
        return {str(file): storage.read(str(file)) for file in files}, written

    assert training.train(config, workdir)
    storage.write(str(workdir / "results.json"), b"{}")
    before = content()
    probing = change(config, probe={"enabled": True})
    for again in (config, probing):
        assert not training.train(again, workdir)
        *_, last = capsys.readouterr().out.splitlines()
        assert last.startswith("ended     this run ended at step 5: nothing was changed; for more")
    with pytest.raises(UserError, match="step 5, and this one ends at step 4, so it has ended and"):
        training.train(dataclasses.replace(config, max_steps=4), workdir)
    assert content() == before
    training.train(dataclasses.replace(config, max_steps=6), workdir)
    assert "step 6/6" in capsys.readouterr().out


def test_run_prints_changed_settings_and_note_on_short_runs(config, tmp_path, capsys, tiny):
    written = dataclasses.replace(config, max_steps=1200)
    short = "note      5 of the config file's 1,200 steps are too few to show an effect"
    training.train(config, tmp_path / "a", written)
    lines = capsys.readouterr().out.splitlines()
    assert "flags     max_steps 1200 -> 5" in lines
    assert lines.count(short) == 2  # before the first step and at the end
    training.train(config, tmp_path / "b", config)
    lines = capsys.readouterr().out.splitlines()
    assert "flags     none: all settings are those of the config file" in lines
    assert not [line for line in lines if line.startswith("note")]


def test_nonfinite_loss_stops_run(config, workdir, monkeypatch):
    """The loss of step 3 is NaN; it is detected at the next log line, before the save."""

    def create(config, length, mesh):
        run = tiny_state.run(config, length.steps)

        def step(state, batch):
            following, metrics = run.step(state, batch)
            term = jnp.where(following.step == 3, jnp.nan, 1.0)
            return following, metrics | {"loss/align_students": term}

        return dataclasses.replace(run, step=jax.jit(step))

    monkeypatch.setattr(training, "run_of", create)
    with pytest.raises(TrainingDivergedError, match="is not finite") as error:
        training.train(config, workdir)
    assert (error.value.step, error.value.term) == (3, "loss/align_students")
    assert step_folders(workdir / "checkpoints") == [workdir / "checkpoints" / "2"]


def test_missing_data_is_one_sentence(config, tmp_path):
    with pytest.raises(UserError, match=r"data\.dir is empty"):
        training.train(change(config, data={"dir": ""}), tmp_path)


@pytest.mark.parametrize(
    "step,every,last,due",
    [(4, 2, 9, True), (5, 2, 9, False), (9, 2, 9, True), (9, 0, 9, True), (4, 0, 9, False)],
)
def test_is_due_at_multiples_and_last_step(step, every, last, due):
    assert is_due(step, every, last) == due
