import dataclasses

import jax
import noise_shards
import numpy as np
import pytest
import tiny_state

from data_pipelines.errors import TrainingDivergedError
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import NonfiniteConfig
from xkd_jax.method.train_state import is_count
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.checkpoint import Checkpoints

RECORDS = 24


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return noise_shards.config(tmp_path_factory.mktemp("shards"), RECORDS)


@pytest.fixture
def train(config, workdir, monkeypatch):
    """Runs steps with an action; audio of the `poisoned` batches (counted from 1) is NaN."""

    def go(steps, action, poisoned=(), limit=10):
        put, seen = training.mesh_lib.put_batch, []

        def put_poisoned(batch, *args):
            seen.append(1)
            if len(seen) in poisoned:
                batch["audio"]["global"]["gain"][:] = np.nan
            return put(batch, *args)

        changed = dataclasses.replace(config, nonfinite=NonfiniteConfig(action, limit))
        dataset = open_dataset(config, config.data.dir, "train")
        run = tiny_state.run(changed, steps)
        with (
            monkeypatch.context() as patch,
            Checkpoints(workdir / "checkpoints", changed, RECORDS, "") as checkpoints,
        ):
            patch.setattr(training.mesh_lib, "put_batch", put_poisoned)
            state = training.first_state(run, checkpoints)
            return training.loop(changed, run, state, dataset, checkpoints, workdir, None)

    return go


def counts(state):
    return {int(leaf) for leaf in jax.tree.leaves(state) if is_count(leaf)}


def test_skipped_step_changes_only_counters(train, capsys):
    before = train(2, "skip")
    after = train(4, "skip", poisoned=(1, 2))
    printed = capsys.readouterr().out
    assert "skipped   step 3: loss is not finite (1 of at most 10)" in printed
    assert "skipped   step 4: loss is not finite (2 of at most 10)" in printed
    assert (counts(before), counts(after)) == ({2}, {4})
    jax.tree.map(
        lambda a, b: None if is_count(a) else np.testing.assert_array_equal(a, b), before, after
    )


def test_rolled_back_run_continues_from_checkpoint_with_later_data(train, capsys, monkeypatch):
    records, batches = [], training.pipeline.train_batches

    def recorded(*args):
        for batch in batches(*args):
            records.append(tuple(batch["record"]))
            yield batch

    monkeypatch.setattr(training.pipeline, "train_batches", recorded)
    saved = jax.device_get(train(4, "rollback"))
    del records[:]
    rolled_back = train(5, "rollback", poisoned=(1,))
    printed = capsys.readouterr().out
    assert "roll back step 5: loss is not finite (1 of at most 10)" in printed
    assert printed.count("resume    from step 4") == 2
    assert counts(rolled_back) == {5}
    np.testing.assert_array_equal(rolled_back.student["w"], saved.student["w"])
    final = train(7, "rollback")
    assert counts(final) == {7}
    assert np.isfinite(final.student["w"]).all()
    assert len(set(records[-2:])) == 2  # the data continued


def test_rollback_without_checkpoint_restores_initial_state(train, capsys):
    state = train(1, "rollback", poisoned=(1,))
    assert "roll back step 1" in capsys.readouterr().out
    np.testing.assert_array_equal(state.student["w"], tiny_state.fill(0).student["w"])


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_exceeded_limit_stops_run(train, action):
    with pytest.raises(TrainingDivergedError, match="after 2 skips or rollbacks") as error:
        train(9, action, poisoned=(3, 4, 5), limit=2)
    assert (error.value.step, error.value.checkpoint) == (5, 4)


def test_stop_names_step_loss_and_last_checkpoint(train):
    with pytest.raises(TrainingDivergedError) as error:
        train(9, "stop", poisoned=(6,))
    assert str(error.value).startswith("Step 6: loss is not finite; the run stops without saving")
    assert "the last good checkpoint is of step 4" in str(error.value)
