"""Runs in emulated buckets of S3 and Google Cloud Storage keep the promises of runs in a folder."""

import json

import failing_calls
import noise_shards
import pytest
import tiny_state
from lease_processes import wait_little

from benchmarks.soak import saved
from data_pipelines import lease
from data_pipelines.errors import StoppedError
from data_pipelines.format import file_tree, storage
from data_pipelines.format.storage import Url
from xkd_jax.report import pretraining_run
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.faults.preemption import Preemption
from xkd_jax.training.logs import event_files, progress

STEPS = 4


@pytest.fixture
def workdir(bucket, tmp_path):
    return Url(bucket) / tmp_path.name / "run"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    changes = {"checkpoint.every_steps": 2, "max_steps": STEPS, "pictures_every": 0}
    return noise_shards.config(tmp_path_factory.mktemp("shards"), **changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    wait_little(monkeypatch)
    tiny_state.use_in_runs(monkeypatch)


def final_state(config, workdir):
    run = tiny_state.run(config, STEPS)
    digest = training.open_dataset(config, config.data.dir, "train").digest
    with Checkpoints(workdir / "checkpoints", config, 24, digest) as checkpoints:
        assert checkpoints.latest() == STEPS
        return checkpoints.restore(run.like)


def names(workdir):
    return set(file_tree.walk(str(workdir)))


def test_run_in_bucket_ends_with_the_bits_of_one_in_a_folder(config, workdir, tmp_path, capsys):
    training.train(config, tmp_path / "local")
    training.train(config, workdir)
    tiny_state.assert_same(final_state(config, workdir), final_state(config, tmp_path / "local"))
    losses, wanted = (saved.losses(folder) for folder in (workdir, tmp_path / "local"))
    assert losses == wanted
    assert sorted(losses) == list(range(1, STEPS + 1))
    there = json.loads(storage.read(str(workdir / "config.json")))
    assert there == json.loads(storage.read(str(tmp_path / "local" / "config.json")))
    assert lease.Lease(workdir).holder() is None
    before = names(workdir)
    training.train(config, workdir)
    assert "this run ended at step 4: nothing was changed" in capsys.readouterr().out
    assert names(workdir) == before


def test_stopped_run_resumes_with_identical_bits(config, workdir, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "reached", lambda self: True)
        with pytest.raises(StoppedError, match=rf"after step 1.*is saved in {workdir}/checkpoints"):
            training.train(config, workdir)
    training.train(config, workdir)
    training.train(config, tmp_path / "local")
    tiny_state.assert_same(final_state(config, workdir), final_state(config, tmp_path / "local"))
    assert {*event_files.scalars(workdir)} >= {1, STEPS}


def test_lost_scalars_are_a_warning_and_appear_later(workdir, monkeypatch, capsys):
    failing_calls.lose_writes(monkeypatch, 1)
    scalars = progress.Scalars(workdir / "tensorboard", enabled=True, start=0)
    for step in (1, 2):
        scalars.write(step, {"loss": float(step)})
    scalars.close()
    assert "continuing without TensorBoard's scalars until it can" in capsys.readouterr().err
    assert event_files.scalars(workdir) == {1: {"loss": 1.0}, 2: {"loss": 2.0}}


def test_large_file_of_scalars_is_continued_in_another(workdir, monkeypatch):
    monkeypatch.setattr(progress, "LARGEST", 100)
    scalars = progress.Scalars(workdir / "tensorboard", enabled=True, start=0)
    for step in range(5):
        scalars.write(step, {"loss": float(step)})
    assert len(storage.sizes(str(workdir / "tensorboard"))) > 1
    assert [found["loss"] for _, found in sorted(event_files.scalars(workdir).items())] == [
        *map(float, range(5))
    ]


def test_page_of_a_run_is_made_from_its_url(config, workdir):
    training.train(config, workdir)
    assert pretraining_run.runs_in([workdir.parent]) == ([workdir], [])
    found = pretraining_run.read(workdir, "run")
    assert found.record.step == STEPS
    assert sorted(found.scalars) == list(range(1, STEPS + 1))
