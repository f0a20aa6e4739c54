import dataclasses
import functools
import itertools
import multiprocessing
import os
import pathlib
import re
import signal
import time

import numpy as np
import pytest

from data_pipelines import read_ahead
from xkd_jax.config import DataConfig
from xkd_jax.errors import UserError

DATA = DataConfig(prefetch=1)


def load(step: int) -> dict:
    return {"step": np.full(3, step)}


def load_and_die_once(folder: str, step: int) -> dict:
    """At step 5 the first process to get there leaves as if it had been killed."""
    mark = pathlib.Path(folder) / "died"
    if step == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return load(step)


def steps_of(batches) -> list[int]:
    return [int(batch["step"][0]) for batch in batches]


def test_steps_come_in_order_and_end():
    assert steps_of(read_ahead.read_ahead(DATA, load, range(3, 9))) == list(range(3, 9))
    assert steps_of(read_ahead.read_ahead(DATA, load, range(3, 3))) == []


def test_a_worker_that_is_killed_costs_nothing(tmp_path, capfd):
    batches = read_ahead.read_ahead(
        dataclasses.replace(DATA, workers=2),
        functools.partial(load_and_die_once, str(tmp_path)),
        range(2, 10),
    )
    assert steps_of(batches) == list(range(2, 10))
    said = capfd.readouterr().out  # what it had made and not yet handed over is made again
    assert re.search(
        r"worker process died with exit code -9; starting again at batch [345]\.", said
    )
    assert not multiprocessing.active_children()


class _Dying:
    """Stands in for Grain's iterator: some batches, and then a dead worker."""

    def __init__(self, steps: range, lives: int):
        self.batches = map(load, steps[:lives])
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        for batch in self.batches:
            return batch
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search")

    def close(self):
        self.closed = True


def _replace_start(monkeypatch, lives) -> list[_Dying]:
    started: list[_Dying] = []

    def start(data, load, steps):
        started.append(_Dying(steps, lives[len(started)]))
        return started[-1]

    monkeypatch.setattr(read_ahead, "_start", start)
    return started


def test_workers_may_die_again_and_again_while_batches_come(monkeypatch):
    started = _replace_start(monkeypatch, [2, 1, 3, 4])
    batches = read_ahead.read_ahead(DATA, load, range(10))
    assert steps_of(itertools.islice(batches, 10)) == list(range(10))
    assert [iterator.closed for iterator in started[:3]] == [True] * 3


def test_workers_that_die_twice_at_a_batch_end_the_run(monkeypatch):
    started = _replace_start(monkeypatch, [2, 0])
    batches = read_ahead.read_ahead(DATA, load, range(10))
    with pytest.raises(
        UserError, match=r"twice while batch 2 was due \(.*exit code -9\): lower data\.workers"
    ):
        list(batches)
    assert all(iterator.closed for iterator in started)


def test_other_errors_are_not_taken_for_death(monkeypatch):
    def start(data, load, steps):
        raise RuntimeError("of another kind")

    monkeypatch.setattr(read_ahead, "_start", start)
    with pytest.raises(RuntimeError, match="of another kind"):
        next(read_ahead.read_ahead(DATA, load, range(10)))


class _Hanging:
    """As Grain's iterator where its worker hangs: waits until the process has gone."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(
            target=time.sleep, args=(60,), name="grain-process-prefetch-x", daemon=True
        )
        self.process.start()

    def __iter__(self):
        return self

    def __next__(self):
        self.process.join(30)
        raise RuntimeError(
            f"Worker process was terminated unexpectedly with exit code {self.process.exitcode}."
        )

    def close(self):
        pass


def test_a_worker_that_hangs_is_killed(monkeypatch, capsys):
    monkeypatch.setattr(read_ahead, "_start", lambda *_: _Hanging())
    data = dataclasses.replace(DATA, workers=1, worker_timeout=0.3)
    since = time.monotonic()
    with pytest.raises(
        UserError, match=r"twice while batch 4 was due \(the last gave nothing for 0\.3 s"
    ):
        next(read_ahead.read_ahead(data, load, range(4, 10)))
    assert 0.6 <= time.monotonic() - since < 30
    assert "gave nothing for 0.3 s; starting again at batch 4" in capsys.readouterr().out
