"""The cost of saves, computed from times."""

import jax.numpy as jnp
import pytest

from benchmarks import saves
from benchmarks.saves import Tier, Training


@pytest.mark.parametrize(
    "extra,step,period", [(0.2, 1.0, 10), (0.21, 1.0, 11), (0.0, 1.0, 1), (-0.5, 1.0, 1)]
)
def test_shortest_period_costs_at_most_two_percent(extra, step, period):
    assert saves.shortest_period(extra, step) == period
    assert extra <= 0.02 * step * period


def test_line_has_bytes_rates_and_shares():
    tier = Tier("local", lambda step, state: None, lambda: None, 200)
    line = saves.described(tier, 2**30, alone=2.0, blocked=0.5, extra=1.0, step=4.0)
    assert "1.00 GiB; training waits 0.50 s; a save alone 512 MiB/s" in line
    assert "a save adds +1.00 s (+25.0% of a step), +0.125% at every 200 steps" in line
    assert line.endswith("at most 2% from every 13 steps on")


def test_a_block_saves_its_first_step_and_waits_at_its_end():
    done = []

    def save(step, state):
        done.append((step, state))

    def advance(state, batch):
        done.append("step")
        return state + batch, jnp.zeros(())

    tier = Tier("local", save, lambda: done.append("end"), 1)
    training = Training(advance, 2, 10)
    training.block(1, None)
    taken, blocked = training.block(2, tier)
    assert done == ["step", "step", (2, 14), "step", "end"]
    assert 0 <= blocked <= taken
