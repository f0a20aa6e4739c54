"""Runs that start from other weights: once, and with their origin in every record."""

import dataclasses

import pytest
import tiny_state
from tiny_checkpoints import DATA, RECORDS

from data_pipelines.errors import UserError
from data_pipelines.read.shuffle import blocks
from xkd_jax.config.initial_weights import InitConfig
from xkd_jax.training import train
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.checkpoints.saved_checkpoint import read_record
from xkd_jax.training.initial_encoders import InitialEncoders

RECORD = {"source": "w.pth", "format": "a VideoMAE", "license": "MIT", "digest": "0a"}


class Weights(InitialEncoders):
    """Initial encoders that replace all values of a state."""

    def into(self, state, architecture):
        return tiny_state.fill(7)


@pytest.fixture
def config(small):
    return dataclasses.replace(small, init=InitConfig(**{"from": "w.pth"}))


def test_a_run_starts_from_weights_once_and_resumes_without_them(config, tmp_path):
    reads = []

    def read():
        reads.append(1)
        return Weights({}, RECORD)

    run = tiny_state.run(config, 4).starting_from(read)
    with Checkpoints(tmp_path, config, RECORDS, DATA) as checkpoints:
        state = train.first_state(run, checkpoints)
        tiny_state.assert_same(state, tiny_state.fill(7))
        tiny_state.assert_same(run.initialize(), tiny_state.fill(7))  # for probes before training
        checkpoints.save(1, tiny_state.fill(1))
    assert len(reads) == 1
    run = tiny_state.run(config, 4).starting_from(lambda: pytest.fail("would read them again"))
    with Checkpoints(tmp_path, config, RECORDS, DATA) as checkpoints:
        tiny_state.assert_same(train.first_state(run, checkpoints), tiny_state.fill(1))
        checkpoints.save(2, tiny_state.fill(2))
    for step in ("1", "2"):
        record = read_record(tmp_path / step)
        assert record.initial_weights == RECORD
        assert record.config["init"]["from"] == "w.pth"


def test_a_resumed_run_cannot_start_from_other_weights(config, small, tmp_path):
    with Checkpoints(tmp_path, small, RECORDS, DATA) as checkpoints:
        checkpoints.save(1, tiny_state.fill(1))
    with (
        Checkpoints(tmp_path, config, RECORDS, DATA) as checkpoints,
        pytest.raises(UserError, match=r"a run with another init\.from \('', now 'w\.pth'\)"),
    ):
        checkpoints.restore(tiny_state.run(config, 4).like)


def test_runs_of_earlier_versions_had_random_encoders(small):
    now = RunRecord.of(dataclasses.asdict(small), RECORDS, DATA)
    content = dataclasses.asdict(now)
    del content["config"]["init"], content["initial_weights"]
    before = RunRecord.from_json(content, "there")
    assert before.initial_weights == {}
    before.refuse_other(now, "there")


def test_runs_in_the_order_of_an_earlier_version_are_refused(small):
    """The earlier order was one permutation for any number of records."""
    config, records = dataclasses.asdict(small), 10_000_000
    parts = blocks(records, 0)
    content = dataclasses.asdict(RunRecord.of(config, records, DATA, parts))
    del content["order_blocks"]
    before = RunRecord.from_json(content, "there")
    with pytest.raises(UserError, match=r"read epochs of 10,000,000 records in another order"):
        before.refuse_other(RunRecord.of(config, records, DATA, parts), "there")
    before.refuse_other(RunRecord.of(config, records, DATA, blocks(records, 1000)), "there")


def test_training_without_a_reader_of_the_weights_is_an_error(config, tmp_path):
    data = dataclasses.replace(config.data, dir="shards")
    with pytest.raises(ValueError, match="has no reader"):
        train.train(dataclasses.replace(config, data=data), tmp_path)
