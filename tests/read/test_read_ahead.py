import dataclasses
import functools
import itertools
import multiprocessing
import os
import pathlib
import re
import signal
import threading
import time
from unittest.mock import Mock

import grain
import numpy as np
import pytest

from data_pipelines import terminal
from data_pipelines.buffers import BufferPool, Buffers
from data_pipelines.errors import LostProcessError
from data_pipelines.loader_config import DataConfig
from data_pipelines.read import read_ahead

DATA = DataConfig(workers=0, prefetch=1)


def load(step: int, buffers: Buffers) -> dict:
    memory = buffers.empty(3 * 8)
    memory.view(np.int64)[:] = step
    return {"step": memory.view(np.int64)}


def pipeline_of(data: DataConfig, load, stop: int):
    """Returns a pipeline whose batches are `load(step, buffers)`."""

    def pipeline(buffers: Buffers, start_step: int) -> grain.IterDataset:
        ahead = data.prefetch
        return (
            grain.MapDataset.range(start_step, stop)
            .map(functools.partial(load, buffers=buffers))
            .map(buffers.pack)
            .to_iter_dataset(grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=ahead))
            .mp_prefetch(grain.MultiprocessingOptions(data.workers), read_ahead.prepare_worker)
        )

    return pipeline


def read(data: DataConfig, load, steps: range):
    """Returns an iterator over the batches of `load`."""
    return read_ahead.read_ahead(data, pipeline_of(data, load, steps.stop), steps.start)


def load_and_die_once(folder: str, step: int, buffers: Buffers) -> dict:
    """Exits at step 5, as if killed, the first time."""
    mark = pathlib.Path(folder) / "died"
    if step == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return load(step, buffers)


def steps_of(batches) -> list[int]:
    return [int(batch["step"][0]) for batch in batches]


def test_steps_come_in_order_and_end():
    assert steps_of(read(DATA, load, range(3, 9))) == list(range(3, 9))
    assert steps_of(read(DATA, load, range(3, 3))) == []


def test_killed_worker_loses_no_batch(tmp_path, capfd):
    batches = read(
        dataclasses.replace(DATA, workers=2),
        functools.partial(load_and_die_once, str(tmp_path)),
        range(2, 10),
    )
    assert steps_of(batches) == list(range(2, 10))
    message = capfd.readouterr().out  # batches that were not delivered are loaded again
    assert re.search(r"died with exit code -9: restarting the workers at batch [345]\.", message)
    assert not multiprocessing.active_children()


def test_workers_yield_same_batches_as_threads():
    data = dataclasses.replace(DATA, prefetch=2, workers=3)
    batches = list(read(data, load, range(20)))  # all batches remain referenced
    assert steps_of(batches) == list(range(20))


def test_workers_ignore_signals_to_process_group(capfd):
    data = dataclasses.replace(DATA, workers=2)
    batches = read(data, load, range(30))
    found = steps_of(itertools.islice(batches, 4))
    for worker in multiprocessing.active_children():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
    assert found + steps_of(batches) == list(range(30))
    assert "starting again" not in capfd.readouterr().out


def _main_process(pids) -> None:
    batches = read(dataclasses.replace(DATA, workers=2), load, range(10**6))
    next(batches)
    pids.put([worker.pid for worker in multiprocessing.active_children()])
    time.sleep(60)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_end_with_killed_main_process():
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    process = context.Process(target=_main_process, args=(pids,))
    process.start()
    workers = pids.get(timeout=60)
    assert len(workers) == 2
    process.kill()
    process.join()
    deadline = time.monotonic() + 30
    while any(map(_runs, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


class _Dying:
    """Replaces Grain's iterator: some batches, then the error of a dead worker."""

    def __init__(self, steps: range, lives: int):
        self.batches = (load(step, BufferPool()) for step in steps[:lives])
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        for batch in self.batches:
            return batch
        raise RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search")

    def close(self):
        self.closed = True


class _DyingPipeline:
    """Creates iterators with the given numbers of batches."""

    def __init__(self, lives: list[int]):
        self.lives = lives
        self.started: list[_Dying] = []

    def __call__(self, buffers: Buffers, start_step: int) -> _Dying:
        self.started.append(_Dying(range(start_step, 10), self.lives[len(self.started)]))
        return self.started[-1]


def test_workers_may_die_repeatedly_between_batches():
    pipeline = _DyingPipeline([2, 0, 1, 3, 0, 4])
    batches = read_ahead.read_ahead(DATA, pipeline, 0)
    assert steps_of(itertools.islice(batches, 10)) == list(range(10))
    assert [iterator.closed for iterator in pipeline.started[:5]] == [True] * 5


def test_workers_that_die_three_times_at_batch_end_run():
    pipeline = _DyingPipeline([2, 0, 0])
    batches = read_ahead.read_ahead(DATA, pipeline, 0)
    with pytest.raises(
        LostProcessError, match=r"3 times at batch 2 \(.*exit code -9\): repeat the command"
    ):
        list(batches)
    assert len(pipeline.started) == 3
    assert all(iterator.closed for iterator in pipeline.started)


def test_errors_other_than_lost_workers_do_not_restart_them():
    with pytest.raises(RuntimeError, match="of another kind"):
        next(read(DATA, Mock(side_effect=RuntimeError("of another kind")), range(10)))


class _Hanging:
    """Replaces Grain's iterator with a hanging worker: waits until the process has ended."""

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


def test_hanging_worker_is_killed(capsys):
    data = dataclasses.replace(DATA, workers=1, worker_timeout=0.1)
    since = time.monotonic()
    with pytest.raises(
        LostProcessError, match=r"3 times at batch 4 \(last reason: returned no batch for 0\.1 s"
    ):
        next(read_ahead.read_ahead(data, lambda *_: _Hanging(), 4))
    assert 0.3 <= time.monotonic() - since < 30
    assert (
        "returned no batch for 0.1 s: restarting the workers at batch 4" in capsys.readouterr().out
    )


def load_and_hang(step: int, buffers: Buffers) -> dict:
    if step > 1:
        time.sleep(1000)
    return load(step, buffers)


def test_hanging_workers_do_not_block_the_end(monkeypatch):
    """Without our limit, Grain would wait for their next batch forever."""
    monkeypatch.setattr(read_ahead, "CLOSING_SECONDS", 0.1)
    others = set(multiprocessing.active_children())
    batches = read(dataclasses.replace(DATA, workers=2), load_and_hang, range(100))
    assert [next(batches)["step"][0] for _ in range(2)] == [0, 1]
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    batches.close()
    assert not any(worker.is_alive() for worker in workers)


def test_hanging_threads_print_warning(capsys, monkeypatch):
    printed, print_text = threading.Event(), terminal.print_text

    def print_and_note(text: str) -> None:
        print_text(text)
        printed.set()

    def slow(step: int, buffers: Buffers) -> dict:
        assert printed.wait(60)
        return load(step, buffers)

    monkeypatch.setattr(terminal, "print_text", print_and_note)
    data = dataclasses.replace(DATA, worker_timeout=0.05)
    assert steps_of(read(data, slow, range(1))) == [0]
    assert "The loader has returned no batch for 0.05 s" in capsys.readouterr().out
