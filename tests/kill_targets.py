"""Functions that `test_kill` runs in processes and kills."""

import contextlib
import io
import os

import tiny_state

from data_pipelines.format import storage
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.checkpoint import Checkpoints


def save_at_every_step(
    directory: str, config: Config, environment: dict[str, str], started
) -> None:
    """The loop with trivial steps, so that most of its time is saving.

    Args:
      directory: path or URL of the run.
      config: of the run.
      environment: variables to set.
      started: event that is set when the loop begins.
    """
    os.environ.update(environment)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = open_dataset(config, config.data.dir, "train")
        run = tiny_state.run(config, config.max_steps)
        started.set()
        workdir = storage.location(directory)
        folder = workdir / "checkpoints"
        with Checkpoints(folder, config, len(dataset), dataset.digest) as checkpoints:
            state = training.first_state(run, checkpoints)
            training.loop(config, run, state, dataset, checkpoints, workdir, None)
