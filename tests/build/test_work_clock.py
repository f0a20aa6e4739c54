"""The time in which a process could have worked, independent of other load."""

import os
import signal
import subprocess
import sys
import time

import pytest

from data_pipelines.build import work_clock
from data_pipelines.build.work_clock import TICK, Usage, WorkClock


class Process:
    """A process whose state the test sets."""

    def __init__(self):
        self.time, self.state, self.used = 100.0, "S", 0.0
        self.clock = WorkClock(1, lambda: self.time, lambda _: Usage(self.state, self.used))

    def run(self, seconds: float, state: str, fraction: float = 0.0) -> float:
        """Samples the process for `seconds`, in which it has a fraction of a processor."""
        self.state = state
        for _ in range(round(seconds / TICK)):
            self.time += TICK
            self.used += fraction * TICK
            self.clock.look()
        return self.clock.seconds


@pytest.mark.parametrize(
    "state, fraction, counted",
    [
        ("R", 1.0, 60.0),  # computes
        ("R", 0.1, 6.0),  # waits for a processor 90 % of the time
        ("R", 0.0, 0.0),
        ("S", 0.0, 60.0),  # sleeps or waits for a lock
        ("D", 0.0, 60.0),  # waits for a disk
        ("T", 0.0, 60.0),  # was stopped
    ],
)
def test_time_without_a_processor_is_not_counted(state, fraction, counted):
    assert Process().run(60.0, state, fraction) == pytest.approx(counted)


def test_time_without_samples_is_not_counted():
    process = Process()
    process.run(5.0, "S")
    process.time += 3600.0  # the machine is suspended, or the whole group stopped
    process.run(5.0, "S")
    assert process.clock.seconds <= 10.0 + 2 * TICK


def test_restart_sets_the_clock_to_zero():
    process = Process()
    process.run(30.0, "S")
    process.clock.restart()
    assert process.run(2.0, "S") == pytest.approx(2.0)


def test_frequent_samples_give_equal_time():
    process = Process()
    for _ in range(1000):
        process.time += TICK / 100
        process.clock.look()
    assert process.clock.seconds == pytest.approx(10 * TICK, abs=TICK)


def test_without_proc_all_time_is_counted():
    now = [0.0]
    clock = WorkClock(1, lambda: now[0], lambda _: None)
    now[0] = 2 * TICK
    assert clock.look() == 2 * TICK


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
def test_usage_is_read_for_any_name_of_the_process(tmp_path):
    """The line of /proc has the name, whose blanks and brackets must not shift fields."""
    link = tmp_path / "a) R 9 (b"
    link.symlink_to(sys.executable)
    process = subprocess.Popen([link, "-c", "while True: pass"])
    try:
        for _ in range(400):
            usage = work_clock.usage(process.pid)
            if usage is not None and usage.seconds > 0.05:
                break
            time.sleep(0.01)
        assert usage is not None
        assert usage.seconds > 0.05
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # until it has stopped
        assert work_clock.usage(process.pid).state == "T"
    finally:
        process.kill()
        process.wait()
    assert work_clock.usage(process.pid) is None
