"""Errors of collectives, of any type, are lost processes; status 2 is for known causes."""

import errno
import os
from unittest.mock import Mock

import jax
import orbax.checkpoint as ocp
import pytest
import tiny_state
from tiny_checkpoints import DATA, RECORDS, restored, saved

from data_pipelines.errors import (
    LostProcessError,
    StoppedError,
    UnreachableError,
    UserError,
    is_transient,
)
from xkd_jax.parallel import processes
from xkd_jax.training.checkpoints import saved_checkpoint
from xkd_jax.training.checkpoints.checkpoint import Checkpoints

GLOO = "UNKNOWN: Gloo AllGather failed: [external/pair.cc:538] Read error [127.0.0.1]:1: Conn"
HEARTBEAT = "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat"
# Errors as JAX, gloo, NCCL, the distributed client and Orbax raise them.
SAID = [
    ValueError(GLOO),
    RuntimeError(GLOO),
    jax.errors.JaxRuntimeError(GLOO),
    jax.errors.JaxRuntimeError(HEARTBEAT),
    jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out. Id: CheckpointManager:save"),
    jax.errors.JaxRuntimeError("INTERNAL: NCCL operation failed: remote process exited"),
    jax.errors.JaxRuntimeError("UNAVAILABLE: failed to connect to all addresses"),
    jax.errors.JaxRuntimeError("ABORTED: The coordination service has shut down"),
]
OTHERS = [
    ValueError("shapes (2,) and (3,) don't fit"),
    RuntimeError("dictionary changed size during iteration"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
    KeyError("gloo"),
    OSError(errno.ECONNRESET, "Connection reset by peer"),
    UserError("The connection is unavailable."),
    StoppedError("after step 2, gloo or not"),
]


def raised_in(module, error):
    """Returns an error that was raised in a function of a module."""
    scope = {"__name__": module}
    exec("def wait(error):\n    raise error", scope)
    try:
        scope["wait"](error)
    except Exception as caught:
        return caught


def from_another(error, *, cause):
    """A `TimeoutError` as Orbax raises it, from an error or while handling it."""
    try:
        try:
            raise error
        except Exception:
            raise TimeoutError("Timed out while waiting.") from (error if cause else None)
    except TimeoutError as caught:
        if not cause:
            caught.__suppress_context__ = False
        return caught


COLLECTIVE = [
    *SAID,
    *(
        raised_in(module, kind("something new"))
        for module in (
            "jax.experimental.multihost_utils",
            "orbax.checkpoint._src.multihost.multihost",
        )
        for kind in (ValueError, RuntimeError, TypeError, OSError, jax.errors.JaxRuntimeError)
    ),
    from_another(ValueError(GLOO), cause=True),
    from_another(jax.errors.JaxRuntimeError(HEARTBEAT), cause=False),
]


def names(errors):
    return [f"{type(error).__name__}: {error}"[:50] for error in errors]


@pytest.fixture
def two(monkeypatch):
    """This process acts as one of two; collectives see it twice."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)


@pytest.mark.parametrize("error", COLLECTIVE, ids=names(COLLECTIVE))
def test_error_of_collective_becomes_lost_process_error(two, error):
    sentence = r"another process of the run broke .* start all"
    with pytest.raises(LostProcessError, match=sentence), processes.lost_peer_errors():
        raise error


@pytest.mark.parametrize("error", OTHERS, ids=names(OTHERS))
def test_other_errors_are_unchanged(two, error):
    with pytest.raises(type(error)) as caught, processes.lost_peer_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", COLLECTIVE, ids=names(COLLECTIVE))
def test_single_process_has_no_lost_process(error):
    with pytest.raises(type(error)) as caught, processes.lost_peer_errors():
        raise error
    assert caught.value is error


@pytest.fixture
def config(small):
    return small


@pytest.mark.parametrize("where", ["saving", "waiting", "checking", "opening"])
def test_process_lost_during_save_is_not_a_write_error(config, tmp_path, monkeypatch, where):
    """The manager is not closed, as that would wait for the lost process."""
    saved(config, tmp_path, 1)
    name = {
        "saving": "save", "waiting": "wait_until_finished", "checking": "check_for_errors",
        "opening": "__init__",
    }[where]  # fmt: skip

    def lose(*_, **__):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        raise ValueError(GLOO)

    def use():
        with Checkpoints(tmp_path, config, RECORDS, DATA) as checkpoints:
            checkpoints.check()
            checkpoints.save(2, tiny_state.fill(2))

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, name, lose)
        if where != "opening":
            patch.setattr(ocp.CheckpointManager, "close", lambda self: pytest.fail("it waits"))
        with pytest.raises(LostProcessError, match="another process of the run broke"):
            use()


def test_process_lost_during_restore_is_not_damage(config, tmp_path, monkeypatch):
    saved(config, tmp_path, 1, 2)
    before = sorted(tmp_path.rglob("*"))

    def lose(*_):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        raise ValueError(GLOO)

    with monkeypatch.context() as patch:
        patch.setattr(saved_checkpoint, "read_item", lose)
        with pytest.raises(LostProcessError):
            restored(config, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


KNOWN = ("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ENOENT")
UNKNOWN = [
    *(OSError(number, os.strerror(number)) for number in (errno.EBUSY, errno.EIO, errno.ESTALE)),
    OSError(9999, "an error of tomorrow"),
    OSError("without a number"),
    ValueError("odd"),
    RuntimeError("odd"),
    TimeoutError("ChainedFuture timed out after 1769.38 seconds."),
]


@pytest.mark.parametrize("name", KNOWN)
def test_permanent_causes_have_status_2(config, tmp_path, monkeypatch, name):
    number = getattr(errno, name)
    error = OSError(number, os.strerror(number))
    assert not is_transient(error, writing=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", Mock(side_effect=error))
        with pytest.raises(UserError, match=r"make room or repair it") as got:
            saved(config, tmp_path / "checkpoints", 1)
    assert got.value.status == 2
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Mock(side_effect=error))
        with pytest.raises(UserError, match=r"can't be written") as got:
            processes.write_once(tmp_path / "a.json", {})
    assert got.value.status == 2


@pytest.mark.parametrize("error", UNKNOWN, ids=names(UNKNOWN))
def test_transient_and_unknown_causes_have_status_1(config, tmp_path, monkeypatch, error):
    assert is_transient(error, writing=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", Mock(side_effect=error))
        with pytest.raises(UnreachableError, match=r"\): run the same command again") as got:
            saved(config, tmp_path / "checkpoints", 1)
    assert got.value.status == 1
    if isinstance(error, OSError):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", Mock(side_effect=error))
            with pytest.raises(UnreachableError, match=r"can't be written"):
                processes.write_once(tmp_path / "a.json", {})
