"""A step that exceeds the memory is refused in one sentence with flags that fit."""

import dataclasses
import re

import pytest
from method_inputs import change, with_weights

from data_pipelines.errors import DevicesError
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import Config
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.mesh import device_bytes
from xkd_jax.training import memory
from xkd_jax.training.compiled_run import run_of
from xkd_jax.training.memory import GIB, Room
from xkd_jax.training.step_memory import Estimate, StepMemory, largest_batch

THERE = Room(16 * GIB, 2, "this machine")


@pytest.fixture(scope="module")
def one_loss(small):
    return with_weights(small, reconstruct_video=1.0)  # which is traced fast


@pytest.fixture(scope="module")
def run(one_loss):
    return run_of(one_loss, Length(10, 3), mesh_lib.make_mesh(one_loss.mesh))


def step_memory(config, like=None, devices=2):
    return StepMemory(config.architecture, config.loss, config, config.mesh, like, devices)


def test_the_estimate_grows_with_the_batch_and_shrinks_with_rematerialization(one_loss, run):
    devices = run.batch_sharding.mesh.size
    larger = dataclasses.replace(one_loss, batch_size=16)
    rematerialized = change(one_loss, model={"remat": "all"})
    base, twice, remat = (
        step_memory(config, run.like, devices).estimate()
        for config in (one_loss, larger, rematerialized)
    )
    assert base.state == device_bytes(run.like) + device_bytes(run.like.student)
    assert twice.state == remat.state == base.state
    parameters = device_bytes(run.like) / devices  # stored for the gradient
    assert 1.5 * base.kept < twice.kept + parameters <= 2 * base.kept + parameters
    assert remat.kept < 0.8 * base.kept


def test_the_estimate_counts_weights_that_a_step_gathers(one_loss, run):
    config = change(one_loss, mesh={"optimizer": "split"})
    student, teacher = device_bytes(run.like.student), device_bytes(run.like.teacher)
    state = step_memory(config, run.like, 8).estimate().state
    assert state == device_bytes(run.like) + 2 * student + teacher


@pytest.mark.parametrize("batch,state,kept,scale,fits", [
    (256, 1, 4, 1.0, 256), (256, 1, 20, 1.0, 64), (256, 1, 20, 3.0, 16), (256, 1, 3000, 1.0, 0),
    (6, 1, 8, 1.0, 3), (256, 9, 0, 1.0, 0), (1, 1, 4, 1.0, 1),
])  # fmt: skip
def test_the_largest_batch_is_a_half_of_a_half(batch, state, kept, scale, fits):
    """8 GiB of state on each device; needed memory is 1.3 times the saved activations."""
    estimate = Estimate(state * GIB, kept * GIB)
    assert largest_batch(batch, THERE, estimate, scale) == fits


def paper(batch_size, **model):
    """The paper's run on two devices, with 3 GiB of state and GIB of activations per clip."""
    model = {"remat": "none"} | model
    return change(dataclasses.replace(Config(), batch_size=batch_size), model=model)


@pytest.fixture
def estimates(monkeypatch):
    kept = {"none": 1.0, "products": 0.25, "all": 0.125}

    def estimate(step):
        size = kept[step.architecture.model.remat] * step.loader.batch_size
        return Estimate(3 * GIB, size * GIB / step.devices / 1.3)

    monkeypatch.setattr(StepMemory, "estimate", estimate)


def test_flags_that_fit_name_what_allows_larger_batches(estimates):
    flags = step_memory(paper(256)).flags_that_fit(THERE)
    assert flags == (
        "--config.batch_size=8, or --config.batch_size=32 --config.model.remat=products, or"
        " --config.batch_size=64 --config.model.remat=all"
    )
    already = step_memory(paper(256, remat="products")).flags_that_fit(THERE)
    assert already == "--config.batch_size=32, or --config.batch_size=64 --config.model.remat=all"


def test_flags_that_fit_divide_the_parameters(estimates):
    there = dataclasses.replace(THERE, total=5 * GIB)  # the state of 3 GiB does not fit twice
    flags = step_memory(paper(16)).flags_that_fit(there)
    assert flags.split(", or ") == [
        "--config.batch_size=2 --config.mesh.fsdp=2",
        "--config.batch_size=8 --config.model.remat=products --config.mesh.fsdp=2",
        "--config.model.remat=all --config.mesh.fsdp=2",
    ]


def test_memory_by_the_compiler_overrides_the_estimate(estimates):
    step = step_memory(paper(8))
    twice = 2 * step.estimate().needed()
    assert step.flags_that_fit(THERE, twice).startswith("--config.batch_size=2")


def test_smaller_model_is_proposed_if_no_flags_fit(estimates):
    there = dataclasses.replace(THERE, total=GIB)
    assert step_memory(paper(1), devices=1).flags_that_fit(there) == "a smaller --config.model.size"


def test_the_papers_batch_is_refused_on_a_small_machine_before_it_is_compiled(
    estimates, monkeypatch
):
    monkeypatch.setattr(memory, "room", lambda devices: THERE)
    with pytest.raises(DevicesError) as caught:
        step_memory(paper(256)).check()
    assert re.fullmatch(
        r"A step needs about 262\.0 GiB of memory, and this machine has 16\.0 GiB for it: give"
        r" --config\.batch_size=8, or .*\.",
        str(caught.value),
    )
    step_memory(paper(16)).check()  # an estimate of 22 GiB, which the compiler may reduce


def test_a_small_step_is_not_traced(one_loss, run, monkeypatch):
    monkeypatch.setattr(StepMemory, "estimate", None)
    step_memory(one_loss, run.like, 8).check()
