"""Checkpoints in emulated buckets of S3 and Google Cloud Storage keep the promises of a folder."""

import dataclasses

import orbax.checkpoint as ocp
import pytest
import stored_files
import tiny_state
from tiny_checkpoints import DATA, RECORDS, restored, saved

from data_pipelines.errors import UserError
from data_pipelines.format import conditional, storage
from data_pipelines.format.storage import Url
from data_pipelines.lease import LeaseLostError
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.training.checkpoints import bucket_checkpoints, saved_checkpoint
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders


@pytest.fixture
def folder(bucket, tmp_path):
    return Url(bucket) / tmp_path.name / "checkpoints"


@pytest.fixture
def config(small):
    return dataclasses.replace(small, checkpoint=CheckpointConfig(keep_last=2, keep_every=4))


def names(folder):
    return [path.name for path in step_folders(folder)]


def test_empty_bucket_has_no_checkpoint(config, folder):
    assert restored(config, folder) is None


def test_checkpoint_without_last_object_does_not_exist(config, folder):
    saved(config, folder, 1, 2)
    storage.remove(str(folder / "2" / saved_checkpoint.COMMITTED))
    assert names(folder) == ["1"]
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(1))


def test_interrupted_save_is_repeated_under_another_name(config, folder):
    """Objects of two saves never mix; those of the interrupted save are removed after the next."""
    saved(config, folder, 1, 2)
    storage.remove(str(folder / "2" / saved_checkpoint.COMMITTED))
    saved(config, folder, 2)
    assert names(folder) == ["2.1", "1"]
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(2))
    assert not storage.is_folder(str(folder / "2"))


def test_save_that_ends_after_another_run_has_begun_does_not_count(config, folder):
    """The saving process was stopped until another one had its lease."""
    saved(config, folder, 1, 2)
    last = str(folder / "2" / saved_checkpoint.COMMITTED)
    content = storage.read(last)
    storage.remove(last)
    with Checkpoints(folder, config, RECORDS, DATA) as checkpoints:
        found = checkpoints.restore(tiny_state.like(tiny_state.fill(0)))
        tiny_state.assert_same(found, tiny_state.fill(1))
        storage.write(last, content)
        assert names(folder) == ["1"]
        checkpoints.save(2, tiny_state.fill(2))
        checkpoints.wait()
        assert names(folder) == ["2.1", "1"]
        storage.write(last, content)  # its objects were removed
    assert names(folder) == ["2.1", "1"]
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(2))


def test_process_that_is_stopped_before_a_save_and_loses_its_lease_saves_nothing(
    config, folder, monkeypatch
):
    """Another process takes over after the check of the lease and before the save has a name."""
    saved(config, folder, 1)
    is_lost = False
    begin = conditional.write

    def check():
        if is_lost:
            raise LeaseLostError("taken over")

    def take_over_and_begin(*args):
        nonlocal is_lost
        is_lost = True
        tiny_state.assert_same(other.restore(like), tiny_state.fill(1))
        return begin(*args)

    like = tiny_state.like(tiny_state.fill(0))
    with Checkpoints(folder, config, RECORDS, DATA) as other:
        monkeypatch.setattr(conditional, "write", take_over_and_begin)
        with (
            Checkpoints(folder, config, RECORDS, DATA, check) as stopped,
            pytest.raises(LeaseLostError),
        ):
            stopped.save(2, tiny_state.fill(7))
        monkeypatch.setattr(conditional, "write", begin)
        assert names(folder) == ["1"]
        other.save(2, tiny_state.fill(2))
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(2))


def test_save_of_a_process_that_takes_over_is_not_removed(config, folder):
    """Another process is stopped after its save, before it removes other incomplete saves."""
    begun, part = str(folder / f"9{saved_checkpoint.BEGUN}"), str(folder / "9" / "part")

    def begin_another_save():
        if names(folder) == ["2", "1"]:
            storage.write(begun, b"")
            storage.write(part, b"")

    saved(config, folder, 1)
    with Checkpoints(folder, config, RECORDS, DATA, begin_another_save) as checkpoints:
        checkpoints.save(2, tiny_state.fill(2))
        checkpoints.wait()
        assert storage.exists(part)


def test_damaged_checkpoint_is_marked_and_kept(config, folder, capsys):
    saved(config, folder, 1, 2)
    stored_files.flip_a_bit(stored_files.values_file(folder / "2"))
    before = stored_files.names(folder)
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(1))
    assert "damaged   the checkpoint of step 2: " in capsys.readouterr().out
    assert sorted(set(stored_files.names(folder)) - set(before)) == ["2.damaged"]
    saved(config, folder, 2, 3, 4)
    assert set(before) - set(stored_files.names(folder)) <= {n for n in before if n.startswith("1")}
    assert names(folder) == ["4", "3"]


def test_orbax_alone_reads_a_checkpoint(config, folder):
    """Orbax's handler reads it; with `gs://` also in a program without `array_stores`."""
    saved(config, folder, 1)
    found = ocp.PyTreeCheckpointer().restore(str(folder / "1" / "student"))
    tiny_state.assert_same(found, tiny_state.fill(1).student)


def test_missing_permission_to_remove_is_printed(config, folder, monkeypatch, capsys):
    def deny(url):
        raise bucket_checkpoints.UnreachableError(f"Access to {url} is denied")

    monkeypatch.setattr(storage, "remove", deny)
    saved(config, folder, 1, 2, 3)
    printed = capsys.readouterr().err
    assert "can't be removed (Access to" in printed
    assert "continues and keeps them" in printed
    assert names(folder) == ["3", "2", "1"]


def test_store_that_arrays_can_t_be_written_to_is_refused(config):
    with pytest.raises(UserError, match=r"memory://x, in a store without .*: give a folder"):
        saved(config, Url("memory://x"), 1)
