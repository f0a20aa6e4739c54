"""Runs in a bucket whose store fails now and then, is out of reach, or denies access."""

import asyncio
import dataclasses
import itertools
import sys

import fsspec
import pytest
import stores
import tiny_state
from orbax.checkpoint import multihost
from tiny_checkpoints import restored, saved

from benchmarks.emulators.fault_proxy import Proxy
from data_pipelines import lease
from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import conditional, filesystems, retries, storage
from data_pipelines.format.storage import Url
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders


@pytest.fixture
def proxy(bucket, monkeypatch):
    """The store is behind a proxy, and there is no delay between attempts."""
    proxy = Proxy(stores.server(bucket.partition(":")[0]))
    stores.use_server(bucket.partition(":")[0], proxy.url, monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # attempts by botocore
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *rest: sleep(0, *rest))
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    # Orbax's threads of a failed save wait that long for each other, 20 minutes by default.
    timeouts = sys.modules[multihost.coordination_timeout.__module__]
    monkeypatch.setattr(timeouts, "coordination_timeout", lambda: 9)
    return proxy


@pytest.fixture
def config(small):
    return dataclasses.replace(small, checkpoint=CheckpointConfig(keep_last=1))


@pytest.fixture
def folder(bucket, tmp_path):
    return Url(bucket) / tmp_path.name


def every(number, fault):
    """Chooses this fault for each `number`th request."""
    count = itertools.count(1)
    return lambda method, path: fault if next(count) % number == 0 else ""


@pytest.mark.parametrize("fault", ["503", "cut", "lost before", "lost after"])
def test_checkpoints_survive_faults(proxy, config, folder, fault):
    proxy.choose = every(4, fault)
    saved(config, folder, 1, 2)
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(2))
    assert proxy.seen.count(fault) >= 5
    assert [path.name for path in step_folders(folder)] == ["2"]


@pytest.mark.parametrize("fault", ["503", "cut", "lost before"])
def test_existing_checkpoints_are_found_in_spite_of_faults(proxy, folder, fault):
    """Otherwise a complete checkpoint could be removed as an interrupted one."""
    storage.write(f"{folder}/a/b", b"content")
    proxy.choose = every(3, fault)
    for _ in range(4):
        assert storage.exists(f"{folder}/a/b")
        assert storage.is_folder(f"{folder}/a")
        assert not storage.exists(f"{folder}/a/c")
        assert storage.subfolders(str(folder)) == ["a"]
        assert storage.sizes(f"{folder}/a") == {"b": 7}


@pytest.mark.parametrize("fault", ["503", "lost before", "lost after"])
def test_lease_survives_faults(proxy, folder, fault):
    proxy.choose = every(3, fault)
    with lease.held(folder, "In use", "wait.") as held:
        for _ in range(3):
            held.check()
    assert held.holder() is None


def test_lost_answer_of_a_renewal_keeps_the_lease(proxy, folder):
    """The store has the new content, and the holder an old version."""
    url, version = f"{folder}/a", None
    for content in (b"one", b"two"):
        faults = ["lost after"]
        proxy.choose = lambda method, path, left=faults: (
            left.pop() if method in ("PUT", "POST") and left else ""
        )
        version = conditional.write(url, content, version)
        assert version is not None
    assert storage.read(url) == b"two"


class Clock:
    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds


def test_minute_without_connection_is_waited_for(proxy, folder, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(retries, "time", clock)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.5)
    proxy.choose = lambda method, path: "lost before" if clock.now < 60 else ""
    storage.write(f"{folder}/a", b"content")
    assert 60 <= clock.now < 90
    assert storage.read(f"{folder}/a") == b"content"


def test_stalled_answer_is_given_up_and_repeated(proxy, folder, monkeypatch):
    storage.write(f"{folder}/a", b"content")
    monkeypatch.setattr(filesystems, "STALL", 0.1)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.1}})
    filesystems.of(str(folder)).clear_instance_cache()
    faults = ["stall"]
    proxy.choose = lambda method, path: faults.pop() if faults and method == "GET" else ""
    assert storage.read(f"{folder}/a") == b"content"
    assert "stall" in proxy.seen


def test_longer_loss_of_connection_ends_the_run_with_one_sentence(proxy, folder, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(retries, "time", clock)
    proxy.choose = lambda method, path: "lost before"
    with pytest.raises(UnreachableError, match=r"can't be reached \(8 tries, .*: check the conn"):
        storage.write(f"{folder}/a", b"content")
    proxy.choose = lambda method, path: ""
    assert not storage.exists(f"{folder}/a")


@pytest.mark.parametrize("fault", ["expired", "denied"])
def test_denied_access_is_one_sentence_without_retries(proxy, config, folder, fault):
    if fault == "expired" and str(folder).startswith("gs"):
        fault = "denied"  # an error of Amazon S3
    proxy.choose = lambda method, path: fault
    with pytest.raises(UserError, match=r"^Access to .* is denied \(.*\): check the credentials"):
        conditional.require(str(folder))
    assert len(proxy.seen) <= 4


def test_credentials_that_expire_during_a_save_are_one_sentence(proxy, config, folder):
    saved(config, folder, 1)
    proxy.choose = lambda method, path: "denied" if "2/student" in path.replace("%2F", "/") else ""
    with pytest.raises(UserError, match="check the credentials and the permissions") as error:
        saved(config, folder, 2)
    assert "\n" not in str(error.value)
    proxy.choose = lambda method, path: ""
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(1))


def test_run_without_permission_to_delete_continues(proxy, config, folder, capsys):
    proxy.choose = lambda method, path: (
        "denied" if method == "DELETE" or path.endswith("?delete") else ""
    )
    with lease.held(folder, "In use", "wait."):
        saved(config, folder / "checkpoints", 1, 2)
    assert "continues and keeps them" in capsys.readouterr().err
    assert [path.name for path in step_folders(folder / "checkpoints")] == ["2", "1"]
    with lease.held(folder, "In use", "wait."):
        tiny_state.assert_same(restored(config, folder / "checkpoints"), tiny_state.fill(2))
