import ctypes
import functools
import os
import time

from data_pipelines import file_workers
from data_pipelines.file_workers import FileWorkers


def work(item, alive):
    kind, number = item
    if kind == "crash":
        os.kill(os.getpid(), 9)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "hang":
        time.sleep(60)
    if kind == "slow":
        for _ in range(4):
            time.sleep(0.5)
            alive()
    time.sleep(0.02 * (number % 3))
    return kind, number


def lost(item, reason, detail):
    return reason, item[1], detail


def run(items, workers=2, timeout=1.2):
    with FileWorkers(work, lost, workers, timeout, len) as pool:
        return list(pool.map(items))


def test_results_are_in_order():
    items = [("fine", i) for i in range(40)]
    assert run(items, workers=3) == items


def test_a_crash_or_hang_costs_its_item_only():
    kinds = ["fine", "crash", "fine", "hang", "segfault", "fine", "slow"]
    results = run(list(zip(kinds, range(7), strict=True)))
    assert [r[0] for r in results] == [
        "fine", "crashed", "fine", "timed out", "crashed", "fine", "slow",
    ]  # fmt: skip
    assert [r[1] for r in results] == list(range(7))
    assert "exit code -9" in results[1][2]
    assert "1.2 s" in results[3][2]


def test_memory_is_bounded_by_how_far_ahead_it_works(tmp_path):
    with FileWorkers(functools.partial(_touch, tmp_path), lost, 1, 30, int) as pool:
        results = pool.map(range(100))
        assert next(results) == 0
        time.sleep(0.5)
        assert len(list(tmp_path.iterdir())) <= 12
        assert list(results) == list(range(1, 100))


def test_memory_is_bounded_by_what_results_weigh(tmp_path, monkeypatch):
    monkeypatch.setattr(file_workers, "_MOST_BYTES", 5)
    with FileWorkers(functools.partial(_touch, tmp_path), lost, 2, 30, lambda n: 2) as pool:
        results = pool.map(range(40))
        assert next(results) == 0
        time.sleep(0.5)
        assert len(list(tmp_path.iterdir())) <= 6  # three that wait, two under way, one given
        assert list(results) == list(range(1, 40))


def _touch(folder, item, alive):
    (folder / str(item)).touch()
    return item


def test_leaving_ends_the_processes():
    with FileWorkers(work, lost, 2, 30, len) as pool:
        results = pool.map([("fine", 0), ("hang", 1), ("hang", 2)])
        next(results)
        processes = [w.process for w in pool._workers]
    assert not any(p.is_alive() for p in processes)


def test_nothing_to_do():
    assert run([]) == []
