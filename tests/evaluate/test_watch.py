"""Evaluation of each new checkpoint of a run in progress."""

import dataclasses
import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from stored_files import copy, remove
from tiny_checkpoints import saved

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.evaluate import watch
from xkd_jax.training.checkpoints import saved_checkpoint
from xkd_jax.training.logs import event_files


@pytest.fixture
def training(small):
    """The config of a run of three steps that keeps all checkpoints."""
    return dataclasses.replace(small, max_steps=3, checkpoint=CheckpointConfig(keep_last=0))


@pytest.fixture
def run(workdir):
    return workdir / "run"


@pytest.fixture
def results(workdir):
    return workdir / "results"


class Evaluations:
    """Replaces evaluations: records the step, whose checkpoint must exist."""

    def __init__(self, run):
        self.run, self.steps = run, []

    def __call__(self, config, workdir):
        folders = saved_checkpoint.step_folders(self.run / "checkpoints")
        assert config.step in map(saved_checkpoint.step_of, folders)
        self.steps.append(config.step)
        content = {"metric": "top-1", "value": 10.0 * config.step}
        storage.make_folder(str(workdir))
        storage.write(str(workdir / "result.json"), json.dumps(content).encode())
        return content


def follow(run, workdir, evaluate, *events):
    """Watches a run; each wait triggers the next event."""
    left, waits = list(events), []

    def sleep(seconds):
        waits.append(seconds)
        left.pop(0)()

    watch.watch(EvalConfig(checkpoint=str(run)), workdir, 60.0, evaluate, sleep)
    assert not left
    return waits


def test_each_checkpoint_is_evaluated_once_until_the_run_ends(training, run, results, capsys):
    evaluate, folder = Evaluations(run), run / "checkpoints"
    waits = follow(
        run,
        results,
        evaluate,
        lambda: saved(training, folder, 1),
        lambda: None,
        lambda: saved(training, folder, 2, 3),
    )
    assert evaluate.steps == [1, 2, 3]
    assert waits == [60.0] * 3
    found = event_files.scalars(results)
    assert found == {step: {"evaluation/top-1": 10.0 * step} for step in (1, 2, 3)}
    printed = capsys.readouterr().out
    assert printed.count(f"waiting   for the next checkpoint of {run}") == 2
    assert f"ended     the run in {run} has ended" in printed


def test_same_command_skips_evaluated_checkpoints(training, run, results):
    saved(training, run / "checkpoints", 1, 2, 3)
    first, second = Evaluations(run), Evaluations(run)
    follow(run, results, first)
    follow(run, results, second)
    assert (first.steps, second.steps) == ([1, 2, 3], [])


def test_half_written_checkpoint_is_not_evaluated(training, run, results):
    folder = run / "checkpoints"
    saved(training, folder, 1)
    unfinished = "2.orbax-checkpoint-tmp" if isinstance(folder, Path) else "2"
    copy(folder / "1", folder / unfinished)
    remove(folder / unfinished / saved_checkpoint.COMMITTED)
    evaluate = Evaluations(run)
    follow(run, results, evaluate, lambda: saved(training, folder, 3))
    assert evaluate.steps == [1, 3]


def test_checkpoint_that_is_removed_meanwhile_is_left_out(training, run, results, capsys):
    """The run keeps a few checkpoints only."""
    folder = run / "checkpoints"
    saved(training, folder, 1, 2)
    evaluate = Evaluations(run)

    def evaluate_late(config, workdir):
        if config.step == 1:
            remove(folder / "1")
            raise UserError("The checkpoint is damaged.")
        return evaluate(config, workdir)

    follow(run, results, evaluate_late, lambda: saved(training, folder, 3))
    assert evaluate.steps == [2, 3]
    assert "removed   the checkpoint of step 1, before it was evaluated" in capsys.readouterr().out


def test_other_errors_end_the_command(training, run, results):
    saved(training, run / "checkpoints", 1)
    with pytest.raises(UserError, match=r"data\.dir is empty"):
        follow(run, results, Mock(side_effect=UserError("data.dir is empty.")))


@pytest.mark.parametrize("changes", [{"step": 3}, {"checkpoint": ""}, {"checkpoint": __file__}])
def test_configs_that_can_not_be_watched_are_refused(run, tmp_path, changes):
    config = EvalConfig(**{"checkpoint": str(run)} | changes)
    with pytest.raises(UserError, match="--watch"):
        watch.watch(config, tmp_path, 1.0, lambda config, folder: {})
