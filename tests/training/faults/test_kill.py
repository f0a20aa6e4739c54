"""Loops killed by SIGKILL at random times resume with bitwise identical results."""

import multiprocessing
import os
import random
import time
from pathlib import Path, PurePath

import kill_targets
import noise_shards
import numpy as np
import pytest

from benchmarks.soak import saved
from data_pipelines.format import storage
from xkd_jax.training.checkpoints import saved_checkpoint

STEPS, MOST_KILLS = 8, 20


@pytest.fixture(scope="module")
def context():
    """A context whose children are forked from a server with all modules imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_targets"])
    return context


def run(context, target, *args, kill_after=None):
    """Runs a target; returns its seconds after it signals its start, or None if it was killed."""
    started = context.Event()
    process = context.Process(target=target, args=(*args, started))
    process.start()
    assert started.wait(200)
    begin = time.monotonic()
    process.join(200 if kill_after is None else kill_after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return time.monotonic() - begin if process.exitcode == 0 else None


def has_torn(workdir: PurePath) -> bool:
    """Whether a save has begun and not ended."""
    if isinstance(workdir, Path):
        return any(workdir.rglob("*.orbax-checkpoint-tmp"))
    checkpoints = workdir / "checkpoints"
    begun = storage.subfolders(str(checkpoints))
    return any(not storage.exists(str(checkpoints / n / saved_checkpoint.COMMITTED)) for n in begun)


def kill_often(context, folder: PurePath, times: int, target, *args) -> tuple[list[str], int]:
    """Kills a target at random moments, then lets it end; restarts it if it ends before.

    So many times, and until a kill has left a half-written checkpoint, but at most `MOST_KILLS`.

    Returns:
      The folders of the runs that ended, the first of them undisturbed, and how many kills left a
      half-written checkpoint.
    """
    draw, ended, torn, killed = random.Random(time.time_ns()), ["whole"], 0, 0
    seconds = run(context, target, str(folder / "whole"), *args)
    while killed < times or (not torn and killed < MOST_KILLS):
        name = f"run{len(ended)}"
        if run(context, target, str(folder / name), *args, kill_after=draw.uniform(0, seconds)):
            ended.append(name)
            continue
        killed += 1
        torn += has_torn(folder / name)
    if name not in ended:
        assert run(context, target, str(folder / name), *args)
        ended.append(name)
    return ended, torn


def assert_all_end_alike(folder: PurePath, names: list[str], step: int):
    whole, *others = (saved.arrays(folder / name, step) for name in names)
    assert others
    for other in others:
        assert other.keys() == whole.keys()
        for path, value in whole.items():
            np.testing.assert_array_equal(other[path], value, path)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(MOST_KILLS, marks=pytest.mark.heavy)])
def test_killed_loop_resumes_from_complete_checkpoint(context, workdir, tmp_path, kills):
    """Some kills happen during a save, also during the first one."""
    changes = {"checkpoint.every_steps": 1, "checkpoint.keep_last": 2, "max_steps": STEPS}
    config = noise_shards.config(tmp_path / "shards", **changes)
    target = kill_targets.save_at_every_step
    ended, torn = kill_often(context, workdir, kills, target, config, dict(os.environ))
    assert torn
    assert_all_end_alike(workdir, ended, STEPS)
