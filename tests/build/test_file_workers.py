import ctypes
import functools
import multiprocessing
import os
import pickle
import signal
import struct
import time
from multiprocessing import connection

import pytest

from data_pipelines.build import file_workers
from data_pipelines.build.file_workers import FileWorkers

TIMEOUT = 0.6  # seconds of work


def work(item, alive):
    kind, number = item
    if kind == "crash":
        os.kill(os.getpid(), 9)
    if kind == "cut off":
        connection.Connection.send = _send_half
        alive()
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "hang":
        time.sleep(60)
    if kind == "spin":
        while True:
            pass
    if kind.startswith("/"):  # only the first time
        try:
            os.close(os.open(f"{kind}{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "second", number
        if "stop" in kind:
            os.kill(os.getpid(), signal.SIGSTOP)
        if "kill" in kind:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if kind == "slow":
        for _ in range(4):
            time.sleep(TIMEOUT / 2)
            alive()
    time.sleep(0.02 * (number % 3))
    return kind, number


def _send_half(pipe, message):
    content = pickle.dumps(message)
    os.write(pipe.fileno(), struct.pack("!i", len(content)) + content[: len(content) // 2])
    os.kill(os.getpid(), 9)


def lost(item, reason, detail):
    return reason, item[1], detail


def run(items, workers=2, timeout=TIMEOUT):
    with FileWorkers(work, lost, workers, timeout, len) as pool:
        return list(pool.map(items))


def test_results_are_in_order():
    items = [("fine", i) for i in range(40)]
    assert run(items, workers=3) == items


@pytest.mark.slow
def test_crash_or_hang_loses_only_its_item():
    kinds = ["fine", "crash", "fine", "hang", "segfault", "fine", "slow", "cut off", "spin"]
    results = run(list(zip(kinds, range(9), strict=True)))
    assert [r[0] for r in results] == [
        "fine", "crashed", "fine", "timed out", "crashed", "fine", "slow", "crashed", "timed out",
    ]  # fmt: skip
    assert [r[1] for r in results] == list(range(9))
    assert "exit code -9" in results[1][2]
    assert f"{TIMEOUT} s" in results[3][2]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "kill", "hang"])
def test_item_is_repeated_after_one_crash_or_hang(tmp_path, how):
    """A worker may be stopped, killed for lack of memory or blocked by storage."""
    bad = [(f"{tmp_path}/{how}", i) for i in (1, 2)]
    results = run([("fine", 0), *bad, ("fine", 3)])
    assert results == [("fine", 0), ("second", 1), ("second", 2), ("fine", 3)]


def test_second_attempt_runs_alone(tmp_path):
    with FileWorkers(functools.partial(_count_others, tmp_path), lost, 3, TIMEOUT, len) as pool:
        results = list(pool.map(range(12)))
    assert results[4] == [4]
    assert any(len(others) > 1 for others in results)


def _count_others(folder, item, alive):
    """Returns the items in progress; the fifth hangs the first time."""
    (folder / str(item)).touch()
    first = folder / "first"
    if item == 4 and not first.exists():
        first.touch()
        time.sleep(60)
    time.sleep(0.05)
    in_progress = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    (folder / str(item)).unlink()
    return in_progress


def test_number_of_waiting_results_is_bounded(tmp_path):
    with FileWorkers(functools.partial(_touch, tmp_path, 16), lost, 2, 30, int) as pool:
        results = pool.map(range(100))
        assert next(results) == 0
        assert len(list(tmp_path.iterdir())) == 16  # eight for each worker
        assert list(results) == list(range(1, 100))


def test_bytes_of_waiting_results_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(file_workers, "MAX_BYTES", 5)
    with FileWorkers(functools.partial(_touch, tmp_path, 4), lost, 2, 30, lambda n: 2) as pool:
        results = pool.map(range(40))
        assert next(results) == 0
        assert len(list(tmp_path.iterdir())) == 4  # the next one and three that waited
        assert list(results) == list(range(1, 40))


def _touch(folder, ahead, item, alive):
    """The first item ends soon after the others have reached the limit."""
    (folder / str(item)).touch()
    while not item and len(list(folder.iterdir())) < ahead:
        time.sleep(0.001)
    time.sleep(0.0 if item else 0.05)
    return item


def test_leaving_the_context_ends_processes():
    before = set(multiprocessing.active_children())
    with FileWorkers(work, lost, 2, 30, len) as pool:
        results = pool.map([("fine", 0), ("hang", 1), ("hang", 2)])
        next(results)
        processes = set(multiprocessing.active_children()) - before
        assert len(processes) == 2
    assert not any(p.is_alive() for p in processes)


def test_no_items_have_no_results():
    assert run([]) == []
