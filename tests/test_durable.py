"""Files are synced before they get their names, and folders after it."""

import errno
import json
import os

import pytest
import tiny_state
import toy_shards
from failing_calls import system_error
from tiny_checkpoints import restored, saved

from data_pipelines import durable
from data_pipelines.format import shards, storage
from xkd_jax.parallel.processes import write_once

MARKS = ("commit_success.txt", "_CHECKPOINT_METADATA")


@pytest.fixture
def events(monkeypatch):
    """Syncs and renames in order: ("sync", inode) and ("rename", inode)."""
    noted = []
    fsync = os.fsync

    def note_sync(descriptor):
        fsync(descriptor)
        noted.append(("sync", os.fstat(descriptor).st_ino))

    def watched(rename):
        def note_rename(source, target, **options):
            inode = os.stat(source).st_ino
            rename(source, target, **options)
            noted.append(("rename", inode))

        return note_rename

    monkeypatch.setattr(os, "fsync", note_sync)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    return noted


def inode(path):
    return os.stat(path).st_ino


def _json(folder):
    write_once(folder / "a.json", {"b": 1})


def _storage(folder):
    with storage.writer(f"{folder}/a") as file:
        file.write(b"x")


def _shard(folder):
    shards.write_shard(f"{folder}/shard", [b"one", b"two"])


def _data_set(folder):
    toy_shards.write(folder, map(toy_shards.record, range(3)))


@pytest.mark.parametrize("write", [_json, _storage, _shard, _data_set])
def test_files_are_synced_before_they_get_their_names(tmp_path, events, write):
    write(tmp_path)
    written = list(tmp_path.iterdir())
    assert written
    for path in written:
        synced, named = (events.index((what, inode(path))) for what in ("sync", "rename"))
        assert synced < named
        assert ("sync", inode(tmp_path)) in events[named:]


def test_new_folders_are_synced_with_their_parents(tmp_path, events):
    for make in (
        lambda folder: write_once(folder / "a.json", {}),
        lambda folder: storage.make_folder(str(folder)),
        lambda folder: storage.make_folder(os.path.relpath(folder)),
    ):
        events.clear()
        folder = tmp_path / f"new{len(list(tmp_path.iterdir()))}" / "below"
        make(folder)
        assert {("sync", inode(tmp_path)), ("sync", inode(folder.parent))} <= set(events)


def test_checkpoint_is_synced_before_it_gets_its_name(small, tmp_path, events):
    saved(small, tmp_path / "checkpoints", 1)
    folder = tmp_path / "checkpoints" / "1"
    named = events.index(("rename", inode(folder)))
    # Orbax writes its own marks after that; restoring does not depend on them.
    paths = [path for path in (folder, *folder.rglob("*")) if path.name not in MARKS]
    assert folder / "run" / "metadata" in paths
    assert {("sync", inode(path)) for path in paths} <= set(events[:named])
    for mark in MARKS:
        (folder / mark).write_bytes(b"")
    tiny_state.assert_same(restored(small, folder.parent), tiny_state.fill(1))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_failed_sync_keeps_old_file(tmp_path, monkeypatch, number):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"b": 1}))
    monkeypatch.setattr(os, "fsync", system_error(number))
    with pytest.raises(OSError), durable.replacing(str(path), f"{path}.tmp") as file:
        file.write(b"{}")
    assert json.loads(path.read_text()) == {"b": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_file_system_without_folder_sync_is_accepted(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    write_once(tmp_path / "new" / "a.json", {})
    assert (tmp_path / "new" / "a.json").exists()
