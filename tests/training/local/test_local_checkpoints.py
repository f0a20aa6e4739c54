"""Checkpoints on hosts' own disks, in one process; `test_processes` has several."""

import dataclasses
import errno
import os
import shutil

import jax
import pytest
import tiny_state
from failing_calls import system_error
from stored_files import flip_a_bit, truncate
from tiny_checkpoints import DATA, RECORDS

from data_pipelines import durable
from data_pipelines.errors import UserError
from xkd_jax.config.pretraining import LocalCheckpointsConfig
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.local import shard_files
from xkd_jax.training.local.local_checkpoints import LocalCheckpoints


@pytest.fixture
def config(small, tmp_path):
    kept = LocalCheckpointsConfig(dir=str(tmp_path / "disk"), every_steps=1, keep=2)
    return dataclasses.replace(small, local_checkpoints=kept)


def opened(config, workdir):
    checkpoints = Checkpoints(workdir / "checkpoints", config, RECORDS, DATA)
    local = LocalCheckpoints(config.local_checkpoints, workdir)
    checkpoints.keep_local(local)
    return checkpoints, local


def save(config, workdir, local_steps=(), steps=()):
    """Saves states whose values follow from their steps."""
    checkpoints, local = opened(config, workdir)
    with checkpoints:
        for step in steps:
            checkpoints.save(step, tiny_state.fill(step))
        for step in local_steps:
            checkpoints.save_locally(step, tiny_state.fill(step))
        local.finish()


def restored(config, workdir):
    """The step of the newest intact state, which is compared with what was saved; or None."""
    checkpoints, _ = opened(config, workdir)
    with checkpoints:
        state = checkpoints.restore(tiny_state.like(tiny_state.fill(0)))
    if state is None:
        return None
    tiny_state.assert_same(state, tiny_state.fill(int(state.step)))
    return int(state.step)


def folders(tmp_path):
    """The local checkpoints, newest first."""
    found = [path for path in (tmp_path / "disk").glob("*/*") if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.partition(".")[0]), reverse=True)


def values(folder):
    return folder / "0" / "values"


def change_index(path):
    index = path.with_name("index.json")
    index.write_text(index.read_text().replace('"seed": 0', '"seed": 1'))


def test_newest_of_both_kinds_is_restored(config, tmp_path, capsys):
    assert restored(config, tmp_path) is None
    save(config, tmp_path, local_steps=[5, 6, 7], steps=[4])
    assert restored(config, tmp_path) == 7
    assert f"resume    from step 7, the hosts' folders {tmp_path}/disk" in capsys.readouterr().out
    save(config, tmp_path, steps=[8])
    assert restored(config, tmp_path) == 8


def test_each_shard_is_read_once(config, tmp_path, monkeypatch):
    save(config, tmp_path, local_steps=[5])
    read, places = shard_files.read, []
    monkeypatch.setattr(
        shard_files, "read", lambda shard, place: places.append(place) or read(shard, place)
    )
    assert restored(config, tmp_path) == 5
    assert len(places) == len(set(places))
    assert sum(os.path.getsize(path) for path in {place.file for place in places}) == sum(
        leaf.nbytes for leaf in jax.tree.leaves(tiny_state.fill(5))
    )


def test_state_is_restored_onto_other_mesh(config, tmp_path):
    save(config, tmp_path, local_steps=[5])
    whole = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape,
            leaf.dtype,
            sharding=jax.NamedSharding(leaf.sharding.mesh, jax.P(*[None, "data"][: leaf.ndim])),
        ),
        tiny_state.fill(0),
    )
    checkpoints, _ = opened(config, tmp_path)
    with checkpoints:
        state = checkpoints.restore(whole)
    tiny_state.assert_same(state, tiny_state.fill(5))
    assert state.student["w"].sharding == whole.student["w"].sharding


def test_newest_checkpoints_are_kept(config, tmp_path):
    save(config, tmp_path, local_steps=[1, 2, 3, 4])
    assert [path.name.partition(".")[0] for path in folders(tmp_path)] == ["4", "3"]


def test_next_start_removes_older_attempts(config, tmp_path):
    save(config, tmp_path, local_steps=[1, 2])
    before = folders(tmp_path)
    assert restored(config, tmp_path) == 2
    checkpoints, local = opened(config, tmp_path)
    with checkpoints:
        checkpoints.restore(tiny_state.like(tiny_state.fill(0)))
        checkpoints.save_locally(3, tiny_state.fill(3))
        local.finish()
    after = folders(tmp_path)
    assert [path.name.partition(".")[0] for path in after] == ["3", "2"]
    assert after[1] == before[0]
    local.remove()
    assert not folders(tmp_path)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, change_index, os.remove])
def test_damaged_checkpoint_is_reported_and_the_one_before_used(config, tmp_path, capsys, damage):
    save(config, tmp_path, local_steps=[5, 6])
    damage(values(folders(tmp_path)[0]))
    assert restored(config, tmp_path) == 5
    printed = capsys.readouterr().out
    assert "of the local checkpoint of step 6: not used" in printed
    assert "lost      the local checkpoint of step 6: parts of" in printed


def test_lost_disk_falls_back_to_the_runs_folder(config, tmp_path):
    save(config, tmp_path, local_steps=[5, 6], steps=[4])
    shutil.rmtree(tmp_path / "disk")
    assert restored(config, tmp_path) == 4


def test_local_checkpoint_is_used_if_the_runs_newest_is_damaged(config, tmp_path):
    save(config, tmp_path, local_steps=[5], steps=[4])
    save(config, tmp_path, steps=[6])
    (tmp_path / "checkpoints" / "6" / "run" / "metadata").write_text("{}")
    assert restored(config, tmp_path) == 5
    assert (tmp_path / "checkpoints" / "6.damaged").is_dir()
    save(config, tmp_path, steps=[6])


def test_interrupted_save_is_not_used(config, tmp_path):
    save(config, tmp_path, local_steps=[5, 6])
    (folder,) = folders(tmp_path)[0].iterdir()
    folder.rename(f"{folder}.unfinished")
    assert restored(config, tmp_path) == 5


def test_files_of_other_run_are_not_used(config, tmp_path):
    """The other run used the same folder before, or is the original of a copied folder."""
    save(config, tmp_path / "a", local_steps=[5])
    assert restored(config, tmp_path / "b") is None
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert restored(config, tmp_path / "c") is None
    assert restored(config, tmp_path / "a") == 5
    shutil.rmtree(tmp_path / "a")
    assert restored(config, tmp_path / "a") is None


def test_run_with_other_settings_is_refused(config, tmp_path):
    save(config, tmp_path, local_steps=[5])
    with pytest.raises(UserError, match=r"disk holds a run with another seed \(0, now 7\)"):
        restored(dataclasses.replace(config, seed=7), tmp_path)


def test_full_disk_is_one_warning_and_the_run_continues(config, tmp_path, monkeypatch, capsys):
    save(config, tmp_path, local_steps=[3])
    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync_tree", system_error(errno.ENOSPC))
        save(config, tmp_path, local_steps=[5, 6, 7])
    shown = capsys.readouterr().err
    assert shown.count("Local checkpoints can't be written on process 0 (") == 1
    assert "No space left on device" in shown
    assert restored(config, tmp_path) == 3
    assert len(folders(tmp_path)) == 1


def test_unusable_folder_is_one_warning(config, tmp_path, capsys):
    (tmp_path / "disk").write_text("")
    save(config, tmp_path, local_steps=[5, 6], steps=[4])
    assert capsys.readouterr().err.count("Local checkpoints can't be written") == 1
    assert restored(config, tmp_path) == 4


def test_folder_may_have_variables(config, tmp_path, monkeypatch):
    kept = dataclasses.replace(config.local_checkpoints, dir="$OWN_DISK/xkd")
    config = dataclasses.replace(config, local_checkpoints=kept)
    with pytest.raises(UserError, match="variable that is not set on this host"):
        save(config, tmp_path)
    monkeypatch.setenv("OWN_DISK", str(tmp_path / "disk"))
    save(config, tmp_path, local_steps=[5])
    assert os.listdir(tmp_path / "disk" / "xkd")


def test_state_is_independent_of_later_changes(config, tmp_path):
    """The arrays may be donated while they are written."""
    checkpoints, local = opened(config, tmp_path)
    state = tiny_state.fill(5)
    with checkpoints:
        checkpoints.save_locally(5, state)
        for leaf in (state.student["w"], state.teacher["w"]):
            leaf.delete()
        local.finish()
    assert restored(config, tmp_path) == 5
