import contextlib
import threading

import pytest

from xkd_jax.training.logs.data_wait import DataWait


class Ready:
    """An array that is ready at a given time of the test's clock; polling it advances the clock."""

    def __init__(self, clock, at):
        self._clock, self._at = clock, at

    def is_ready(self):
        if threading.current_thread() is not threading.main_thread():
            self._clock[0] = max(self._clock[0], self._at)
        return self._clock[0] >= self._at


class Failed:
    def is_ready(self):
        raise RuntimeError("the device is lost")


class Never:
    def is_ready(self):
        return False


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


@pytest.fixture
def wait():
    with contextlib.closing(DataWait()) as opened:
        yield opened


def _run(wait, clock, steps):
    for asked, arrives, ends in steps:
        wait.dispatching(asked, {"video": Ready(clock, arrives), "audio": Ready(clock, asked)})
        wait.dispatched(Ready(clock, ends))
    return wait.take()


@pytest.mark.parametrize(
    "second, waited",
    [
        ((1.0, 2.0, 20.0), 0.0),  # arrives during the step before
        ((1.0, 10.0, 20.0), 0.0),  # arrives at its end
        ((1.0, 13.0, 20.0), 3.0),  # a late loader or a long transfer: since the end of the step
        (
            (12.0, 15.0, 20.0),
            3.0,
        ),  # requested after the step, as after a checkpoint
    ],
)
def test_wait_of_device_between_steps(wait, clock, second, waited):
    assert _run(wait, clock, [(0.0, 0.0, 10.0), second]) == waited


def test_wait_ends_with_dispatch_if_batch_is_there(wait, clock):
    """A late loader delays the dispatch of a step whose own batch was transferred before."""
    assert _run(wait, clock, [(0.0, 0.0, 10.0)]) == 0.0
    clock[0] = 14.0
    assert _run(wait, clock, [(5.0, 5.0, 20.0)]) == 4.0


def test_waits_are_added_until_they_are_taken(wait, clock):
    steps = [(0.0, 1.0, 10.0), (0.0, 12.0, 20.0), (13.0, 25.0, 30.0)]
    assert _run(wait, clock, steps) == 1.0 + 2.0 + 5.0
    assert wait.take() == 0.0
    assert _run(wait, clock, [(30.0, 31.0, 40.0)]) == 1.0


def test_failed_step_does_not_block(wait, clock):
    """The error is raised where the loop reads the step's result."""
    wait.dispatching(0.0, Ready(clock, 2.0))
    wait.dispatched(Failed())
    assert wait.take() == 2.0


def test_closing_does_not_wait_for_step(clock):
    """A thread that waits within JAX would abort the process when Python exits."""
    with contextlib.closing(DataWait()) as wait:
        wait.dispatching(0.0, Never())
        wait.dispatched(Never())
    assert not [t for t in threading.enumerate() if t.name == "data-wait"]
