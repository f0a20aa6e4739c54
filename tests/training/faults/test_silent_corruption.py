"""Devices of one process that hold or compute wrong values, and digests of several hosts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.soak.flipped_bits import flipped
from data_pipelines.errors import EXIT_FAILURE, CorruptedStateError
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.faults.silent_corruption import Device, checked, described, odd_copies

MESH = mesh_lib.make_mesh(MeshConfig(data=4, fsdp=2))
PLACED = {
    "whole": jax.NamedSharding(MESH, jax.P()),
    "divided": jax.NamedSharding(MESH, jax.P("fsdp")),  # four copies of each half
    "alone": jax.NamedSharding(MESH, jax.P(("data", "fsdp"))),
    "count": jax.NamedSharding(MESH, jax.P()),
}


def first_state():
    rng = np.random.default_rng(0)
    values = {name: rng.random((8, 3), np.float32) for name in ("whole", "divided", "alone")}
    return jax.device_put(values | {"count": np.int32(0)}, PLACED)


@pytest.fixture(scope="module")
def step():
    """A compiled step that donates its state."""

    def advance(state, batch):
        following = {name: x + 1 if name == "count" else x * batch for name, x in state.items()}
        return following, {"loss": following["whole"].sum()}

    jitted = jax.jit(advance, out_shardings=(PLACED, PLACED["count"]), donate_argnums=0)
    return jitted.lower(first_state(), batch()).compile()


def batch():
    return jnp.float32(0.9)


def run(step, steps, every, start=0, before=lambda number, state: state):
    """Runs steps; `before` changes the state before each."""
    advance = checked(lambda state, batch: step, every, start)(None, None)
    state = first_state()
    for number in range(start + 1, start + steps + 1):
        state, metrics = advance(before(number, state), batch())
    return jax.device_get((state, metrics))


@pytest.mark.parametrize("every", [1, 2])
def test_checks_change_no_bit(step, every):
    jax.tree.map(np.testing.assert_array_equal, run(step, 4, every), run(step, 4, 0))


@pytest.mark.parametrize("name", ["whole", "divided", "count"])
@pytest.mark.parametrize("bit", [0, 31])
def test_flipped_bit_is_found_at_next_check_and_device_named(step, name, bit):
    def flip(number, state):
        return state | {name: flipped(state[name], 5, bit)} if number == 5 else state

    with pytest.raises(CorruptedStateError) as error:
        run(step, 9, 3, before=flip)
    assert re.fullmatch(
        rf"Step 6: different copies of \['{name}'\] on device 5 of process 0 \(\S+\); the"
        r" run stops without saving: take the host out of the run, move checkpoints after step"
        r" 3 away, local ones too, as they are not checked, and run the same command again.",
        str(error.value),
    )
    assert error.value.status == EXIT_FAILURE


def test_without_checks_step_is_unchanged(step):
    assert checked(lambda state, batch: step, 0, 0)(None, None) is step


def test_step_that_computes_other_values_once_is_found(step):
    """No other device has the values, so only the second computation reveals it."""
    calls = []

    def wrong_once(state, batch):
        state, metrics = step(state, batch)
        calls.append(1)
        if len(calls) == 2:
            state["alone"] = flipped(state["alone"], 6, 3)
        return state, metrics

    with pytest.raises(CorruptedStateError) as error:
        run(wrong_once, 9, 2, start=1)
    told = "Step 2: other values in a second computation of [0]['alone'] on device 6 of process 0"
    assert told in str(error.value)
    assert "checkpoints after step 0 away" in str(error.value)


def test_device_that_computes_wrong_values_each_time_is_found(step):
    def wrong(state, batch):
        state, metrics = step(state, batch)
        return state | {"divided": flipped(state["divided"], 2, 3)}, metrics

    with pytest.raises(CorruptedStateError, match=r"1: different results for .* device 2 of"):
        run(wrong, 1, 1)


DEVICES = [Device(process, 4 * process + i) for process in range(3) for i in range(4)]
HOSTS = ["a", "b", "c"]


def found(places, digests):
    odd = odd_copies(np.array(places, np.int64), np.array(digests, np.uint32))
    return [(int(array), DEVICES[device].number) for array, device in np.argwhere(odd)]


def test_hosts_with_differing_digests_are_named():
    whole, halves = [0] * 12, [0, 6] * 6
    same = [[7] * 12, [1, 2] * 6]
    assert found([whole, halves], same) == []
    assert found([whole, halves], [[7] * 8 + [9] * 4, [1, 2] * 6]) == [(0, n) for n in range(8, 12)]
    assert found([whole, halves], [[7] * 12, [1, 2] * 5 + [1, 3]]) == [(1, 11)]
    assert found([whole], [[9] + [7] * 11]) == [(0, 0)]  # the first is not the reference
    assert found([list(range(12))], [list(range(12))]) == []  # parts without copies
    assert found([[0, 0, *range(1, 11)]], [[4, 5] * 6]) == [(0, 0), (0, 1)]  # no majority


def test_sentence_names_hosts_and_arrays():
    wrong = np.zeros((3, 12), bool)
    wrong[1:, [5, 9]] = True
    assert described("different copies of", wrong, ["x", "y", "z"], DEVICES, HOSTS) == (
        "different copies of y and 1 other array on device 5 of process 1 (b), device 9 of process"
        " 2 (c)"
    )
    many = np.ones((1, 12), bool)
    many[0, 11] = False
    sentence = described("different copies of", many, ["x"], DEVICES, HOSTS)
    assert sentence.startswith("different copies of x on device 0 of process 0 (a), device 1")
    assert sentence.endswith("device 7 of process 1 (b) and 3 other devices")


def test_fault_spread_by_sums_names_no_device():
    sentence = described("different x of", np.ones((3, 12), bool), ["x", "y", "z"], DEVICES, HOSTS)
    assert sentence.startswith("different x of x and 2 other arrays on all 12 devices, so that")
    assert "(test each host alone)" in sentence
