"""Only one run at a time writes to a folder."""

import contextlib
import dataclasses
import os
from pathlib import Path

import noise_shards
import pytest
import tiny_state
from lease_processes import LONG, Process, wait_little

from data_pipelines import lease
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.evaluate import evaluation as evaluation
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders, step_of
from xkd_jax.training.faults import run_lease
from xkd_jax.training.logs import progress

STEPS = 6


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    changes = {"checkpoint.every_steps": 1, "max_steps": STEPS}
    return noise_shards.config(tmp_path_factory.mktemp("shards"), **changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    wait_little(monkeypatch)
    tiny_state.use_in_runs(monkeypatch)


def test_second_run_is_refused_before_it_writes(config, workdir, capsys):
    evaluated = EvalConfig(checkpoint="nowhere")
    with Process(workdir, LONG, "elsewhere") as other:
        assert other.line() == "held"
        for start, its in ((training.train, config), (evaluation.evaluate, evaluated)):
            with pytest.raises(
                lease.LeaseHeldError, match=rf"is using .*\({other.pid} on .*: wait"
            ):
                start(its, workdir)
            assert capsys.readouterr().out.count("waiting   for another process (") == 1
    assert [*storage.sizes(str(workdir))] == [".lease"]
    assert storage.subfolders(str(workdir)) == []


def test_finished_run_releases_its_lease(config, workdir):
    training.train(config, workdir)
    assert lease.Lease(workdir).holder() is None
    if isinstance(workdir, Path):
        assert not list(workdir.glob(".lease*"))


@pytest.mark.parametrize("every,last", [(1, 2), (0, None)])
def test_run_with_lost_lease_saves_nothing(config, workdir, monkeypatch, every, last):
    """Another process takes the lease at step 3; this is detected at the next log line."""
    write = progress.Scalars.write

    def pause(self, step, scalars):
        write(self, step, scalars)
        if step == 3:
            storage.remove(str(workdir / ".lease"))
            lease.Lease(workdir).acquire("In use", "wait.")

    monkeypatch.setattr(progress.Scalars, "write", pause)
    checkpoint = dataclasses.replace(config.checkpoint, every_steps=every)
    with pytest.raises(lease.LeaseLostError, match="taken over by another process"):
        training.train(dataclasses.replace(config, checkpoint=checkpoint), workdir)
    saved = step_folders(workdir / "checkpoints")
    assert max(map(step_of, saved), default=None) == last
    assert storage.exists(str(workdir / ".lease"))


def test_run_without_data_creates_no_folder(config, tmp_path):
    without = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=""))
    with pytest.raises(UserError, match=r"data\.dir is empty"):
        training.train(without, tmp_path / "run")
    assert not os.listdir(tmp_path)


@pytest.fixture
def another_process(monkeypatch):
    """The check of another process; the main process, which holds the lease, is this one too."""
    monkeypatch.setattr(run_lease, "SEEN_SECONDS", 0.0)
    monkeypatch.setattr(run_lease, "is_main_process", lambda: False)


def test_folder_shared_by_all_processes_is_accepted(tmp_path, another_process):
    with run_lease.held(tmp_path) as check:
        check()


@pytest.mark.parametrize("there", ["nothing", "another lease"])
def test_folder_not_shared_with_other_process_is_one_sentence(
    tmp_path, monkeypatch, another_process, there
):
    with contextlib.ExitStack() as stack:
        if there == "another lease":
            stack.enter_context(lease.held(tmp_path / "elsewhere", "In use", "wait."))
        monkeypatch.setattr(run_lease, "Lease", lambda folder: lease.Lease(folder / "elsewhere"))
        sentence = r"on \S+ \(process 0\) is not the folder of that name on the main process' host"
        with pytest.raises(UserError, match=sentence):
            stack.enter_context(run_lease.held(tmp_path))
