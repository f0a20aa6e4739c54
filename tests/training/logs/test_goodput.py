"""Accounts of a run's wall time, with clocks that the tests set."""

import contextlib

import pytest

from xkd_jax.training.logs.goodput import CAUSES, Accounts, Goodput


class Clock:
    """Both clocks of a machine, in seconds; they read the same."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def goodput(self, began=None):
        return Goodput(began, clock=self, wall=self)


def spent(goodput):
    """The seconds of every cause that has some."""
    return {c: s for c, s in goodput.accounts().seconds.items() if s}


def test_phases_exclude_phases_inside_of_them():
    clock = Clock()
    goodput = clock.goodput(began=997.0)
    with goodput.steps(0):
        with goodput.phase("compile"):
            clock.now += 20
        clock.now += 5
        with goodput.phase("save"):
            clock.now += 2
            with goodput.phase("restore"):
                clock.now += 1
            clock.now += 3
        clock.now += 4
        goodput.line(10, waited=2.0)
    clock.now += 7
    assert spent(goodput) == {
        "start": 10, "compile": 20, "save": 5, "restore": 1, "data_wait": 2, "useful": 7,
    }  # fmt: skip


def test_all_causes_add_up_to_wall_time():
    clock = Clock()
    goodput = clock.goodput()
    with goodput.steps(0):
        for step, cause in enumerate(CAUSES, 1):
            clock.now += 0.5
            with goodput.phase(cause):
                clock.now += step
            goodput.line(step, waited=0.1)
        clock.now += 3  # steps without a line between them
    accounts = goodput.accounts()
    assert sum(accounts.seconds.values()) == pytest.approx(clock.now - 1000)
    assert sum(accounts.shares().values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "begun,step,repeated",
    [(60, 100, 40 / 40), (60, 140, 40 / 80), (100, 140, 0), (120, 140, 0), (0, 50, 1)],
)
def test_steps_that_earlier_start_made_are_repeated(begun, step, repeated):
    """The earlier start logged step 100."""
    clock = Clock()
    goodput = clock.goodput()
    goodput.resume(Accounts({}, starts=1, reached=100, written=1000.0))
    with goodput.steps(begun):
        clock.now += 16
        goodput.line(step, waited=0.0)
        clock.now += 10
        goodput.line(160, waited=0.0)
    again = max(100 - step, 0) / (160 - step) * 10
    found = goodput.accounts().seconds
    assert found["repeated_steps"] == pytest.approx(16 * repeated + again)
    assert found["useful"] == pytest.approx(26 - found["repeated_steps"])
    assert goodput.accounts().reached == 160


def test_accounts_of_a_start_are_those_of_the_run():
    """A run of 30 s, 100 s without a process, and 10 s more."""
    clock = Clock()
    first = clock.goodput()
    with first.steps(0):
        clock.now += 30
        first.line(8, waited=6.0)
    before = first.accounts()
    clock.now += 104
    second = clock.goodput(began=clock.now - 4)
    second.resume(before)
    with second.steps(8):
        clock.now += 6
        second.line(9, waited=0.0)
    assert spent(second) == {"data_wait": 6, "restart": 100, "start": 4, "useful": 30}
    accounts = second.accounts()
    assert sum(accounts.seconds.values()) == clock.now - 1000
    assert (accounts.starts, accounts.reached, accounts.written) == (2, 9, clock.now)


def test_clock_that_is_behind_an_earlier_one_loses_no_time():
    clock = Clock()
    goodput = clock.goodput()
    goodput.resume(Accounts({"useful": 5.0}, starts=1, reached=1, written=2000.0))
    assert spent(goodput) == {"useful": 5}


def test_waits_are_at_most_the_time_of_the_steps():
    clock = Clock()
    goodput = clock.goodput()
    with goodput.steps(0):
        clock.now += 2
        goodput.line(1, waited=2.5)
    assert spent(goodput) == {"data_wait": 2}


def test_error_within_phase_ends_it():
    clock = Clock()
    goodput = clock.goodput()
    with contextlib.suppress(KeyError), goodput.phase("probe"):
        clock.now += 1
        raise KeyError
    clock.now += 2
    assert spent(goodput) == {"probe": 1, "start": 2}


def test_description_lists_losses_by_size():
    found = Accounts(
        {"useful": 5400.0, "save": 600.0, "data_wait": 1200.0, "other": 0.1}, 3, 9, 0.0
    )
    text = "75.0% of 2 h 00 min in useful steps; lost: data wait 16.7%, save 8.3%; 3 starts"
    assert found.described() == text
    assert Accounts({"useful": 50.0}, 1, 9, 0.0).described() == "100.0% of 50 s in useful steps"
