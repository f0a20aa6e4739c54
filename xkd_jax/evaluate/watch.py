"""Evaluates the checkpoints of a run that is still training, each once, as they appear."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.evaluate import result
from xkd_jax.inference import run_checkpoint
from xkd_jax.parallel.processes import (
    is_main_process,
    lost_peer_errors,
    main_activity,
    number_of_main,
    print_on_main,
)
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders, step_of
from xkd_jax.training.logs.progress import Scalars

_EMPTY, _NONE = -2, -1  # there are no checkpoints; all have results
_WORDING = run_checkpoint.Wording("--config.checkpoint=RUN", "--config.step=N")
Evaluate = Callable[[EvalConfig, PurePath], dict[str, Any]]


@lost_peer_errors()
def watch(
    config: EvalConfig,
    workdir: PurePath,
    seconds: float,
    evaluate: Evaluate,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Evaluates every checkpoint of a run, in the order of their steps, until the run has ended.

    Results are in the folders `step{STEP}` of the workdir, and their values in its TensorBoard. A
    checkpoint with a result is not evaluated again, so that the same command continues.

    Args:
      config: of the evaluation; its checkpoint is the run.
      workdir: folder or URL of the evaluations.
      seconds: between two listings of the checkpoints.
      evaluate: evaluates one checkpoint in a workdir and returns the content of its result file.
      sleep: waits for seconds.

    Raises:
      UserError: the config is of one checkpoint, or not of a run; or as `evaluate`.
    """
    if config.step:
        raise UserError("--watch evaluates every checkpoint: leave out --config.step.")
    if not config.checkpoint or storage.exists(config.checkpoint):
        raise UserError("--watch follows a run: give its folder by --config.checkpoint.")
    run = storage.location(config.checkpoint)
    gone: set[int] = set()  # steps of checkpoints that were removed before their evaluation ended
    waits = False
    with contextlib.closing(
        Scalars(workdir / "tensorboard", enabled=is_main_process(), start=0)
    ) as scalars:
        while True:
            step = _next(run, workdir, gone)
            if step == _NONE and _has_ended(run):
                break
            if step < 0:
                if not waits:
                    print_on_main(f"waiting   for the next checkpoint of {run}")
                waits = True
                with main_activity(f"waiting for a checkpoint of {run}"):
                    sleep(seconds)
                continue
            waits = False
            print_on_main(f"step      {step}")
            try:
                found = evaluate(dataclasses.replace(config, step=step), _folder(workdir, step))
            except UserError:
                if _still_exists(run, step):
                    raise
                gone.add(step)
                print_on_main(f"removed   the checkpoint of step {step}, before it was evaluated")
                continue
            scalars.write(step, {f"evaluation/{found['metric']}": found["value"]})
    print_on_main(f"ended     the run in {run} has ended, and its checkpoints are evaluated")


def _folder(workdir: PurePath, step: int) -> PurePath:
    return workdir / f"step{step}"


def _next(run: PurePath, workdir: PurePath, gone: set[int]) -> int:
    """Returns the smallest step without a result, `_NONE` or `_EMPTY`; equal on all processes."""

    def look() -> int:
        folders = _checkpoints(run)
        for step in map(step_of, reversed(folders)):
            done = storage.exists(str(_folder(workdir, step) / result.FILE))
            if step not in gone and not done:
                return step
        return _NONE if folders else _EMPTY

    return number_of_main(look)


def _has_ended(run: PurePath) -> bool:
    """Whether the newest checkpoint is of the run's last step; every process must call it."""
    newest = run_checkpoint.opened(run, 0, _WORDING, lambda line: None)
    return newest.record.step >= newest.config.length(newest.record.records).steps


def _checkpoints(run: PurePath) -> list[PurePath]:
    """Returns the folders of the run's complete checkpoints, newest first."""
    directory = run / "checkpoints"
    if not storage.is_folder(str(directory)):
        return []
    return step_folders(directory)


def _still_exists(run: PurePath, step: int) -> bool:
    """Whether the checkpoint of a step still exists; the same on all processes."""
    return bool(number_of_main(lambda: step in map(step_of, _checkpoints(run))))
