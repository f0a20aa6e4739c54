"""Actions of two processes, which are threads here and exchange their states by a barrier."""

import threading

import numpy as np
import pytest

from data_pipelines.errors import StoppedError, UnreachableError, UserError
from xkd_jax.training.faults import joint_work
from xkd_jax.training.faults.joint_work import JointWork


class Requests:
    """Simulates signals: the first process must stop at an exchange."""

    def __init__(self, at: int = 1000):
        self.left = at

    def reached(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture
def run_both(monkeypatch):
    """Runs two actions as two processes: (action, ...) -> [result or exception]."""
    barrier, states = threading.Barrier(2, timeout=20), {}

    def gather(mine):
        states[threading.current_thread().name] = mine
        barrier.wait()
        found = np.array([states["0"], states["1"]])
        barrier.wait()
        return found

    monkeypatch.setattr(joint_work.multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(joint_work, "EVERY", 0.0)

    def run(*actions, requests=Requests):
        results = {}

        def start(name, action):
            work = JointWork("making shards", requests())
            try:
                results[name] = work.run(lambda: action(work))
            except Exception as error:
                results[name] = error

        threads = [
            threading.Thread(target=start, args=(i, action), name=str(i))
            for i, action in enumerate(actions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[i] for i in range(len(actions))]

    return run


def ticks(count, result):
    def action(work):
        for _ in range(count):
            work.tick()
        return result

    return action


@pytest.mark.parametrize("first, second", [(0, 0), (5, 0), (0, 7), (3, 4)])
def test_all_return_when_slowest_has_ended(run_both, first, second):
    ended = []

    def slow(work):
        ticks(second, None)(work)
        ended.append("second")
        return "b"

    def quick(work):
        return ticks(first, "a")(work)

    assert run_both(quick, slow) == ["a", "b"]
    assert ended == ["second"]


@pytest.mark.parametrize("kind", [UserError, UnreachableError])
def test_failure_ends_action_of_other_process(run_both, kind):
    def fail(work):
        work.tick()
        raise kind("The disk is full.")

    own, other = run_both(fail, ticks(10_000, "never"))
    assert (type(own), str(own)) == (kind, "The disk is full.")
    assert type(other) is kind
    assert "Another process of the run failed while making shards: see its output" in str(other)


def test_failure_of_both_keeps_both_messages(run_both):
    def fail(work):
        raise UserError(f"Reason of {threading.current_thread().name}.")

    assert [str(error) for error in run_both(fail, fail)] == ["Reason of 0.", "Reason of 1."]


def test_preemption_stops_all_at_same_exchange(run_both):
    found = run_both(ticks(10_000, "a"), ticks(2, "b"), requests=lambda: Requests(at=6))
    assert [type(error) for error in found] == [StoppedError] * 2
    assert "while making shards, as requested: run the same command" in str(found[0])


def test_one_process_exchanges_no_more_often_than_due(clock):
    asked = []
    work = JointWork("x", type("Never", (), {"reached": lambda self: asked.append(clock[0])})())

    def action():
        for clock[0] in (0.5, 1.9, joint_work.EVERY, 3.0, 2 * joint_work.EVERY):
            work.tick()

    work.run(action)
    assert asked == [2.0, 4.0, 4.0]
