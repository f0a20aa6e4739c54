"""Available memory, and the refusal of a compiled step that exceeds it."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from data_pipelines.errors import DevicesError
from xkd_jax.training import memory
from xkd_jax.training.compiled_run import compile_step
from xkd_jax.training.memory import GIB, Room


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


def test_other_errors_are_unchanged():
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


def test_accelerator_reports_its_memory():
    there = memory.room([accelerator(bytes_limit=64 * GIB), accelerator(bytes_limit=60 * GIB)])
    assert there == Room(120 * GIB, 2, "2 x NVIDIA H100")
    assert memory.room([accelerator()]).total == float("inf")
