"""Leases between real processes, in a folder and in buckets."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import time
import types
from unittest.mock import Mock

import pytest
import stores
from lease_processes import LONG, Process, wait_little

from data_pipelines import lease
from data_pipelines.errors import EXIT_FAILURE, LostProcessError, UserError
from data_pipelines.format import storage
from data_pipelines.holder import Holder
from data_pipelines.lease import Lease, LeaseHeldError, LeaseLostError


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Shortens the times of this process."""
    monkeypatch.setattr(lease, "EXPIRY", 1.0)
    monkeypatch.setattr(lease, "HEARTBEAT", 0.1)
    wait_little(monkeypatch)


@pytest.fixture(scope="module", params=["disk", "s3", "gs"])
def place(request):
    """The URL of a bucket, or an empty text for the disk."""
    with (
        stores.bucket(request.param)
        if request.param != "disk"
        else contextlib.nullcontext("") as url
    ):
        yield url


@pytest.fixture
def folder(place, tmp_path):
    return f"{place}/{tmp_path.name}" if place else str(tmp_path)


class Clock:
    """A clock that advances when this process waits, without real waiting."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """The clock for other processes' leases."""
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    return clock


def _names(folder):
    """The files in a folder."""
    return sorted(storage.sizes(folder))


def _held(folder):
    """Whether this process gets the lease without waiting for it to expire."""
    start = lease.time.monotonic()
    with lease.held(folder, "In use", "wait."):
        return lease.time.monotonic() - start < lease.EXPIRY / 2


def _ended(command):
    """A holder of this machine whose process has ended."""
    return dataclasses.replace(Holder.this_process(), started=1, command=command)


def test_second_process_is_refused_with_name_of_holder(folder):
    with Process(folder, LONG) as first:
        assert first.line() == "held"
        with Process(folder, "1", "elsewhere") as second:
            refused = second.rest().splitlines()
            assert second.status() == EXIT_FAILURE
    message = rf"\({first.pid} on \S+, since 20\d\d-.* UTC: .*lease_holder.py .*\)"
    assert len(refused) == 2
    assert re.fullmatch(
        rf"waiting   for another process {message} in {re.escape(folder)}", refused[0]
    )
    assert re.fullmatch(rf"It is in use {message}: wait\.", refused[1])


def test_ending_holder_is_waited_for(folder, monkeypatch):
    monkeypatch.setattr(lease, "PATIENCE", 30.0)
    with Process(folder, LONG) as first:
        assert first.line() == "held"
        found = []
        held = Lease(folder)
        held.acquire(
            "In use", "wait.", waiting=lambda line: (found.append(line), first.tell("end"))
        )
        assert found
        assert first.status() == 0
        held.release()


@pytest.mark.parametrize("reaped", [True, False])
def test_lease_of_killed_local_holder_is_taken_at_once(folder, reaped):
    with Process(folder, LONG) as first:
        assert first.line() == "held"
        first.send(signal.SIGKILL)
        if reaped:
            first.status()
        assert _held(folder)


def test_reused_pid_is_not_the_holder(tmp_path):
    """After a restart of the machine or a container, PIDs are reused."""
    with Process(tmp_path, LONG) as first:
        assert first.line() == "held"
        first.send(signal.SIGKILL)
        first.status()
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_bytes())
    file.write_text(json.dumps(content | {"pid": os.getpid()}))
    assert _held(tmp_path)


def test_lease_of_killed_remote_holder_expires(folder, clock):
    with Process(folder, LONG, "elsewhere") as first:
        assert first.line() == "held"
        first.send(signal.SIGKILL)
        first.status()
    with lease.held(folder, "In use", "wait."):
        assert lease.EXPIRY <= clock.now < lease.EXPIRY + 3 * lease.POLL


def test_stopped_holder_detects_lost_lease(folder, clock):
    with Process(folder, "0.6") as first:
        assert first.line() == "held"
        first.tell("check")
        assert first.line() == "still held"
        first.send(signal.SIGSTOP)
        with lease.held(folder, "In use", "wait.") as held:
            first.send(signal.SIGCONT)
            first.tell("check")
            assert f"was taken over by another process ({os.getpid()} on " in first.rest()
            assert first.status() == EXIT_FAILURE
            held.check()  # the last write of the first process had no effect


def test_stopped_holder_without_competitor_keeps_lease(folder):
    with Process(folder, "0") as first:  # seconds, shorter than the stop
        assert first.line() == "held"
        first.send(signal.SIGSTOP)
        first.send(signal.SIGCONT)
        first.tell("check")
        assert first.line() == "still held"
        first.tell("end")
        assert first.status() == 0


@pytest.mark.parametrize("before", ["nothing", "released", "killed", "expired"])
def test_one_of_simultaneous_processes_gets_lease(folder, before):
    if before != "nothing":
        with Process(folder, LONG, "elsewhere" if before == "expired" else "") as first:
            assert first.line() == "held"
            if before == "released":
                first.tell("end")
            else:
                first.send(signal.SIGKILL)
            first.status()
    with contextlib.ExitStack() as stack:
        several = [stack.enter_context(Process(folder, "1")) for _ in range(4)]
        last = []
        for process in several:
            line = process.line()
            last.append(process.line() if line.startswith("waiting") else line)
        assert last.count("held") == 1
        assert sum(line.startswith("It is in use (") for line in last) == 3
        holder = several[last.index("held")]
        holder.tell("check")
        assert holder.line() == "still held"
    assert _names(folder) == [".lease"]


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_clocks_of_two_machines_may_differ(folder, monkeypatch, jump):
    """Neither the time of day nor the modification time of the file is used."""
    now = time.time() + jump
    with Process(folder, LONG, "elsewhere") as first:
        assert first.line() == "held"
        monkeypatch.setattr(time, "time", lambda: now)
        with pytest.raises(LeaseHeldError):
            _held(folder)
    if not storage.is_remote(folder):
        os.utime(storage.join(folder, ".lease"), (now, now))
    monkeypatch.setattr(lease, "time", Clock())
    assert not _held(folder)  # only after the expiry


def test_pause_of_waiting_process_does_not_expire_lease(folder, monkeypatch):
    """Its machine or the storage was suspended for that time."""
    clock = iter(1e3 * n for n in range(10**6))
    with Process(folder, "0.6", "elsewhere") as first:
        assert first.line() == "held"
        with monkeypatch.context() as patch:
            jumping = types.SimpleNamespace(monotonic=lambda: next(clock), sleep=time.sleep)
            patch.setattr(lease, "time", jumping)
            with pytest.raises(LeaseHeldError):
                Lease(folder).acquire("In use", "wait.")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"[" * 10**5, b'{"host": "h"}', b"\xff", b"null", b'{"pid": 1e999}'],
)
def test_invalid_lease_file_expires(folder, clock, content):
    """A kill during the first write, or a loss of data on the disk, leaves such a file."""
    storage.write(storage.join(folder, ".lease"), content)
    found = []
    with lease.held(folder, "In use", "wait.", waiting=found.append) as held:
        held.check()
        assert _names(folder) == [".lease"]
    assert found == [f"waiting   for another process in {folder}"]
    assert _held(folder)


class Killed(BaseException):
    pass


def test_claim_of_killed_process_expires(tmp_path, monkeypatch):
    (tmp_path / ".lease").write_bytes(_ended("dead").content())
    with monkeypatch.context() as patch:
        following = _ended("dead too")
        patch.setattr(Holder, "this_process", lambda: following)
        patch.setattr(os, "rename", Mock(side_effect=Killed))
        with pytest.raises(Killed):
            Lease(tmp_path).acquire("In use", "wait.")
    assert len(os.listdir(tmp_path)) == 2
    assert _held(tmp_path)
    assert not os.listdir(tmp_path)


def test_late_process_does_not_replace_new_lease(tmp_path, monkeypatch):
    """A third process takes over between the check and the claim of a late one."""
    (tmp_path / ".lease").write_bytes(_ended("dead").content())
    has_ended, followed = Holder.has_ended, []
    with contextlib.ExitStack() as stack:

        def pause(holder):
            monkeypatch.setattr(Holder, "has_ended", has_ended)
            followed.append(stack.enter_context(lease.held(tmp_path, "In use", "wait.")))
            return True

        monkeypatch.setattr(Holder, "has_ended", pause)
        with pytest.raises(LeaseHeldError):
            Lease(tmp_path).acquire("In use", "wait.")
        followed[0].check()


def test_removed_lease_file_is_detected(folder):
    def write():
        with lease.held(folder, "In use", "wait."):
            storage.remove(storage.join(folder, ".lease"))
            raise FileNotFoundError("checkpoints/12")

    with pytest.raises(LeaseLostError, match=r"\.lease was removed while in use"):
        write()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_impossible_folder_is_one_sentence(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't be written to \(.*\): free disk space, or give"):
        Lease(tmp_path / name).acquire("In use", "wait.")


def test_failure_releases_lease_unless_writes_may_continue(folder):
    with pytest.raises(ValueError), lease.held(folder, "In use", "wait."):
        raise ValueError
    with pytest.raises(LostProcessError), lease.held(folder, "In use", "wait."):
        raise LostProcessError
    with pytest.raises(LeaseHeldError):
        _held(folder)


def test_description_of_holder_is_one_line():
    holder = Holder("h\x1b[2J", 7, "", 0, "now", "python\nrm", "t")
    assert str(holder) == r"7 on h\x1b[2J, since now: python\nrm"
