"""Output of a run from its compilation to its last step."""

import re

import fake_terminal
import noise_shards
import pytest
import tiny_state

from data_pipelines.read.dataset import open_dataset
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.checkpoint import Checkpoints

STEP = r"step {}/7  loss \d\.\d{{4}}  [\d.e+]+ clips/s  data wait \d+%  left \d+ s"


@pytest.fixture
def go(tmp_path):
    """Trains for 7 steps, with a line every 4."""
    changes = {"log_every": 4, "checkpoint.every_steps": 0}
    config = noise_shards.config(tmp_path / "shards", **changes)
    dataset = open_dataset(config, config.data.dir, "train")

    def go():
        run = tiny_state.run(config, 7)
        folder = tmp_path / "checkpoints"
        with Checkpoints(folder, config, len(dataset), dataset.digest) as checkpoints:
            state = training.first_state(run, checkpoints)
            training.loop(config, run, state, dataset, checkpoints, tmp_path, None)

    return go


def test_pipe_gets_lines_of_compilation_and_first_step(go, capsys):
    go()
    compiling, compiled, *steps = capsys.readouterr().out.splitlines()
    assert compiling == "compiling the step ..."
    assert re.fullmatch(r"compiled  in \d+ s", compiled)
    for line, step in zip(steps, (1, 4, 7), strict=True):
        assert re.fullmatch(STEP.format(step), line), line


def test_terminal_keeps_same_lines_and_shows_progress_bar(go, monkeypatch):
    out = fake_terminal.use(monkeypatch)
    go()
    compiling, compiled, *steps = out.screen()
    assert compiling == "compiling the step ..."
    assert re.fullmatch(r"compiled  in \d+ s", compiled)
    assert [line[:8] for line in steps] == ["step 1/7", "step 4/7", "step 7/7"]
    shown = out.in_place()
    assert any(text.startswith("step 0/7 |") for text in shown)
    assert any(text.startswith("saving the last checkpoint ... 00:0") for text in shown)
    assert any(text.startswith("compiling the step ... 00:0") for text in shown)
