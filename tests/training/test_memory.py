"""A step that exceeds the memory is refused in one sentence with flags that fit."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from method_inputs import change, with_weights

from data_pipelines.errors import DevicesError
from xkd_jax.config.pretraining import Config
from xkd_jax.method.schedules import Length
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.mesh import device_bytes
from xkd_jax.training import memory
from xkd_jax.training.compiled_run import Run, compile_step
from xkd_jax.training.memory import GIB, Estimate, Room

THERE = Room(16 * GIB, 2, "this machine")


@pytest.fixture(scope="module")
def one_loss(small):
    return with_weights(small, reconstruct_video=1.0)  # which is traced in no time


@pytest.fixture(scope="module")
def run(one_loss):
    return Run.create(one_loss, Length(10, 3), mesh_lib.make_mesh(one_loss.mesh))


def test_the_estimate_grows_with_the_batch_and_shrinks_with_rematerialization(one_loss, run):
    devices = run.batch_sharding.mesh.size
    base = memory.estimate(one_loss, run.like, devices)
    twice = memory.estimate(dataclasses.replace(one_loss, batch_size=16), run.like, devices)
    remat = memory.estimate(change(one_loss, model={"remat": "all"}), run.like, devices)
    assert base.state == device_bytes(run.like) + device_bytes(run.like.student)
    assert twice.state == remat.state == base.state
    parameters = device_bytes(run.like) / devices  # what the gradient keeps of them
    assert 1.5 * base.kept < twice.kept + parameters <= 2 * base.kept + parameters
    assert remat.kept < 0.8 * base.kept


def test_the_estimate_counts_weights_that_a_step_gathers(one_loss, run):
    config = change(one_loss, mesh={"optimizer": "split"})
    student, teacher = device_bytes(run.like.student), device_bytes(run.like.teacher)
    state = memory.estimate(config, run.like, 8).state
    assert state == device_bytes(run.like) + 2 * student + teacher


@pytest.mark.parametrize("batch,state,kept,scale,fits", [
    (256, 1, 4, 1.0, 256), (256, 1, 20, 1.0, 64), (256, 1, 20, 3.0, 16), (256, 1, 3000, 1.0, 0),
    (6, 1, 8, 1.0, 3), (256, 9, 0, 1.0, 0), (1, 1, 4, 1.0, 1),
])  # fmt: skip
def test_the_largest_batch_is_a_half_of_a_half(batch, state, kept, scale, fits):
    """8 GiB of state on each device; needed memory is 1.3 times the saved activations."""
    estimate = Estimate(state * GIB, kept * GIB)
    assert memory.largest_batch(batch, THERE, estimate, scale) == fits


def paper(batch_size, **model):
    """The paper's run on two devices, with 3 GiB of state and GIB of activations per clip."""
    model = {"remat": "none"} | model
    return change(dataclasses.replace(Config(), batch_size=batch_size), model=model)


@pytest.fixture
def estimates(monkeypatch):
    kept = {"none": 1.0, "products": 0.25, "all": 0.125}

    def estimate(config, like, devices):
        size = kept[config.model.remat] * config.batch_size
        return Estimate(3 * GIB, size * GIB / devices / 1.3)

    monkeypatch.setattr(memory, "estimate", estimate)


def test_flags_that_fit_name_what_allows_larger_batches(estimates):
    flags = memory.flags_that_fit(paper(256), None, THERE, 2)
    assert flags == (
        "--config.batch_size=8, or --config.batch_size=32 --config.model.remat=products, or"
        " --config.batch_size=64 --config.model.remat=all"
    )
    already = memory.flags_that_fit(paper(256, remat="products"), None, THERE, 2)
    assert already == "--config.batch_size=32, or --config.batch_size=64 --config.model.remat=all"


def test_flags_that_fit_divide_the_parameters(estimates):
    there = dataclasses.replace(THERE, total=5 * GIB)  # the state of 3 GiB does not fit twice
    flags = memory.flags_that_fit(paper(16), None, there, 2)
    assert flags.split(", or ") == [
        "--config.batch_size=2 --config.mesh.fsdp=2",
        "--config.batch_size=8 --config.model.remat=products --config.mesh.fsdp=2",
        "--config.model.remat=all --config.mesh.fsdp=2",
    ]


def test_what_the_compiler_says_counts_more_than_the_estimate(estimates):
    config = paper(8)
    of = memory.estimate(config, None, 2).needed()
    assert memory.flags_that_fit(config, None, THERE, 2, 2 * of).startswith("--config.batch_size=2")


def test_nothing_fits(estimates):
    there = dataclasses.replace(THERE, total=GIB)
    assert memory.flags_that_fit(paper(1), None, there, 1) == "a smaller --config.model.size"


def test_the_papers_batch_is_refused_on_a_small_machine_before_it_is_compiled(
    estimates, monkeypatch
):
    monkeypatch.setattr(memory, "room", lambda devices: THERE)
    with pytest.raises(DevicesError) as caught:
        memory.check_estimate(paper(256), None, 2)
    assert re.fullmatch(
        r"A step needs about 262\.0 GiB of memory, and this machine has 16\.0 GiB for it: give"
        r" --config\.batch_size=8, or .*\.",
        str(caught.value),
    )
    memory.check_estimate(paper(16), None, 2)  # 22 GiB: the compiler may do better


def test_a_small_step_is_not_traced(one_loss, run, monkeypatch):
    monkeypatch.setattr(memory, "estimate", None)
    memory.check_estimate(one_loss, run.like, 8)


@pytest.mark.parametrize("total,refused", [(1.0, True), (64 * GIB, False)])
def test_a_compiled_step_is_measured(monkeypatch, capsys, total, refused):
    monkeypatch.setattr(memory, "room", lambda devices: Room(total, 8, "this machine"))
    step = jax.jit(lambda x: x @ x.T)
    told = []

    def advice(there, needed):
        told.append(needed)
        return "less"

    def compiled():
        return compile_step(step, np.ones((64, 32), np.float32), advice=advice)

    if not refused:
        assert compiled()(np.ones((64, 32), np.float32)).shape == (64, 64)
        return
    with pytest.raises(
        DevicesError, match=r"needs 0\.0 GiB of memory, and this machine .*: give less"
    ):
        compiled()
    assert told[0] >= 4 * (64 * 32 + 64 * 64)


@pytest.mark.parametrize("text,said", [
    ("RESOURCE_EXHAUSTED: Out of memory allocating 32715423968 bytes.", "another 30.5 GiB did no"),
    ("RESOURCE_EXHAUSTED: no room", "what was needed did not fit"),
])  # fmt: skip
def test_an_allocation_that_fails_is_one_sentence(text, said):
    with pytest.raises(DevicesError) as caught, memory.exhaustion("--config.batch_size=4 or less"):
        raise jax.errors.JaxRuntimeError(text)
    assert said in str(caught.value)
    assert str(caught.value).endswith(": give --config.batch_size=4 or less.")
    assert caught.value.status == 3


def test_other_errors_stay_what_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError), memory.exhaustion(""):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_the_devices_of_a_cpu_share_the_memory_of_the_machine(monkeypatch):
    held = jax.numpy.ones(1000)
    monkeypatch.setattr(memory, "memory_limit", lambda: 8 * GIB)
    monkeypatch.setattr(memory, "memory_used", lambda: 2 * GIB)
    there = memory.room(jax.devices())
    assert there.devices == 8
    assert 6 * GIB + held.nbytes <= there.total < 8 * GIB
    assert there.each == there.total / 8
    monkeypatch.setattr(memory, "memory_used", lambda: 9 * GIB)
    assert memory.room(jax.devices()).total < 8 * GIB


def accelerator(**stats):
    return SimpleNamespace(
        platform="gpu", device_kind="NVIDIA H100", memory_stats=lambda: stats or None
    )


def test_an_accelerator_tells_its_own_memory():
    there = memory.room([accelerator(bytes_limit=64 * GIB), accelerator(bytes_limit=60 * GIB)])
    assert there == Room(120 * GIB, 2, "2 x NVIDIA H100")
    assert memory.room([accelerator()]).total == float("inf")
