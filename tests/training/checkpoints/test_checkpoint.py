import contextlib
import dataclasses
import errno
import itertools
import json
import os
import re
import resource
import shutil
import tempfile
import time
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_state
from method_inputs import change, schedules_of
from stored_files import copy, flip_a_bit, names, remove, truncate, values_file
from tiny_checkpoints import DATA, RECORDS, restored, saved

from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import storage
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import CheckpointConfig, MeshConfig
from xkd_jax.method import state_shardings
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.checkpoints import (
    checkpoint,
    checkpoint_errors,
    run_record,
    saved_checkpoint,
    versions,
)
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders
from xkd_jax.training.compiled_run import optimizer_of

NOBODY = 65534
ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(small):
    return dataclasses.replace(small, checkpoint=CheckpointConfig(keep_last=2, keep_every=4))


def set_aside(folder):
    """The place of a checkpoint found damaged: renamed, or marked by an object beside it."""
    damaged = folder.with_name(f"{folder.name}.damaged")
    if isinstance(folder, Path):
        return damaged
    assert storage.exists(str(damaged))
    assert folder not in step_folders(folder.parent)
    return folder


def describe(config, axes=(8, 1, 1), split=False):
    transformation = optimizer_of(config, schedules_of(config, Length(10, 5)))
    mesh = mesh_lib.make_mesh(MeshConfig(*axes))
    return checkpoint.like(
        state_shardings.abstract_state(config.architecture, transformation),
        state_shardings.state_shardings(config.architecture, mesh, transformation, split=split),
    )


def fill(like, seed):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        value = rng.integers(0, 9, leaf.shape) if leaf.dtype == np.int32 else rng.random(leaf.shape)
        return jax.device_put(value.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(draw, like)


def test_restored_state_is_bitwise_identical_on_any_mesh(config, workdir):
    state = fill(describe(config, (2, 2, 2)), 0)
    with Checkpoints(workdir, config, RECORDS, DATA) as checkpoints:
        checkpoints.save(3, state)
    for axes, split in (((2, 2, 2), False), ((8, 1, 1), True)):
        like = describe(config, axes, split)
        with Checkpoints(workdir, config, RECORDS, DATA) as checkpoints:
            assert checkpoints.latest() == 3
            found = checkpoints.restore(like)
        jax.tree.map(np.testing.assert_array_equal, found, state)
        assert jax.tree.structure(found) == jax.tree.structure(state)
        for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
            assert leaf.sharding == wanted.sharding


def test_last_and_every_kth_checkpoints_are_kept(config, workdir):
    saved(config, workdir, *range(1, 8))
    assert [path.name for path in step_folders(workdir)] == ["7", "6", "4"]
    assert {re.split("[./]", name)[0] for name in names(workdir)} == set("467")


def test_clock_that_is_set_forward_ends_no_save(config, workdir, monkeypatch):
    """The clock moves by 11 days at each reading."""
    jumps = itertools.count(1)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e6 * next(jumps))
    saved(config, workdir, 1, 2)
    assert next(jumps) > 2
    tiny_state.assert_same(restored(config, workdir), tiny_state.fill(2))


def test_checkpoint_of_other_data_or_size_is_refused(config, workdir):
    saved(config, workdir, 1)
    for other, named in (
        (dataclasses.replace(config, seed=7), "seed (0, now 7)"),
        (dataclasses.replace(config, batch_size=16), "batch_size (8, now 16)"),
        (change(config, model={"size": "32/2/2:16/1/2"}), "model.size ('24/2/2:16/1/2', now '32"),
        (change(config, model={"variant": "mas"}), "model.variant ('xkd', now 'mas')"),
        (change(config, video={"frames": 8}), "video.frames (4, now 8)"),
    ):
        with pytest.raises(UserError) as error:
            restored(other, workdir)
        assert f"holds a run with another {named}" in str(error.value)
    with pytest.raises(UserError, match=r"another records \(24, now 25\)"):
        restored(config, workdir, records=25)
    with pytest.raises(UserError, match=rf"a run on other data.*\(digest {DATA}, now fedc\)"):
        restored(config, workdir, data="fedc")
    assert restored(config, workdir) is not None


def test_changed_settings_of_resumed_run_are_printed(config, workdir, capsys):
    saved(config, workdir, 1)
    assert restored(dataclasses.replace(config, log_every=7), workdir) is not None
    printed = capsys.readouterr().out
    assert "changed   log_every (50, now 7)" in printed
    assert f"resume    from step 1, {workdir}" in printed


def test_changed_library_version_is_printed(config, workdir, monkeypatch, capsys):
    saved(config, workdir, 1)
    assert restored(config, workdir) is not None
    assert "versions" not in capsys.readouterr().out
    now = versions.versions()
    others = {"jax": "9.9", "xkd_jax": "3.1", "code": "0", "python": "2.7", "numpy": None}
    monkeypatch.setattr(run_record, "versions", lambda: now | others)
    assert restored(config, workdir) is not None
    printed = capsys.readouterr().out
    for name, other in others.items():
        assert f"changed   versions.{name} ({now[name]!r}, now {other!r})" in printed


@pytest.mark.parametrize("layout", [None, 1, 3, "2"])
def test_record_of_other_layout_is_refused_without_renaming(config, workdir, layout):
    saved(config, workdir, 1, 2)
    path = workdir / "2" / "run" / "metadata"
    content = RunRecord.verified(json.loads(storage.read(str(path))))
    content.pop("layout")
    content |= {} if layout is None else {"layout": layout}
    content |= {"crc32": run_record.checksum(content)}
    storage.write(str(path), json.dumps(content).encode())
    before = names(workdir)
    with pytest.raises(UserError, match=r"/2 was saved by another version of this program"):
        restored(config, workdir)
    assert names(workdir) == before


def damages(folder):
    """Yields (name, function that damages a file, file of the checkpoint)."""
    values = values_file(folder / "student")
    yield "values' bit", flip_a_bit, values
    yield "values cut", truncate, values
    yield "values gone", remove, values
    yield "optimizer's bit", flip_a_bit, values_file(folder / "rest")
    yield "index cut", truncate, folder / "teacher" / "manifest.ocdbt"
    yield "index gone", remove, folder / "teacher" / "manifest.ocdbt"
    yield "record's bit", flip_a_bit, folder / "run" / "metadata"
    yield "item gone", remove, folder / "teacher"


@pytest.mark.parametrize("workdir", ["folder", "gs"], indirect=True)  # s3 is slow
def test_newest_intact_checkpoint_is_restored_and_damaged_one_kept(config, workdir, capsys):
    whole = saved(config, workdir / "whole", 1, 2)
    for name, damage, path in damages(whole / "2"):
        other = workdir / name
        copy(whole, other)
        damage(other / path.relative_to(whole))
        content = names(other / "2")
        tiny_state.assert_same(restored(config, other), tiny_state.fill(1))
        printed = capsys.readouterr().out
        assert "damaged   the checkpoint of step 2: " in printed, name
        assert "resume    from step 1" in printed
        assert names(set_aside(other / "2")) == content
    saved(config, other, 2)
    tiny_state.assert_same(restored(config, other), tiny_state.fill(2))


def test_flipped_bit_never_changes_restored_values(config, tmp_path):
    """A flip in unused bytes of a file changes no value, and need not be detected."""
    whole = saved(config, tmp_path / "whole", 1, 2)
    used = []
    for file in (values_file(whole / "2" / item) for item in ("student", "rest")):
        for eighth in range(8):
            other = tmp_path / f"{file.name}{eighth}"
            copy(whole, other)
            flip_a_bit(other / file.relative_to(whole), eighth)
            found = restored(config, other)
            used.append(int(found.step))
            tiny_state.assert_same(found, tiny_state.fill(used[-1]))
    assert used.count(1) > 8


def test_run_without_intact_checkpoint_is_refused(config, workdir):
    saved(config, workdir, 1)
    flip_a_bit(values_file(workdir / "1" / "student"))
    before = names(workdir)
    with pytest.raises(UserError, match=r"No checkpoint in .* is intact"):
        restored(config, workdir)
    assert names(workdir) == before


def of_tensorstore(number):
    """Returns an error as Orbax raises it, with the system's error number in TensorStore's text."""
    error = Exception("Encountered error while reading array index")
    error.__cause__ = ValueError(
        'FAILED_PRECONDITION: Error reading "w/0.0" in OCDBT database at local file "/run/": Failed'
        f" to open local file \"/run/d/0f\": it is so [os_error_code='{number}']"
    )
    return error


@pytest.mark.parametrize(
    "error,fault,kind",
    [
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle", UnreachableError),
        (of_tensorstore(errno.ENOTCONN), "not connected: '/run/d/0f'", UnreachableError),
        (of_tensorstore(errno.EMFILE), "Too many open files: '/run/d/0f'", UnreachableError),
        (of_tensorstore(errno.EACCES), "Permission denied: '/run/d/0f'", UserError),
    ],
)
def test_unreadable_checkpoint_is_not_renamed_as_damaged(
    config, workdir, monkeypatch, error, fault, kind
):
    saved(config, workdir, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(saved_checkpoint, "read_item", Mock(side_effect=error))
        with pytest.raises(
            UserError, match=rf"The checkpoint .*2 can't be read \(.*{fault}\)"
        ) as got:
            restored(config, workdir)
    assert type(got.value) is kind
    assert int(restored(config, workdir).step) == 2


@pytest.mark.parametrize(
    "error,kind",
    [
        (OSError(errno.ESTALE, "Stale file handle"), UnreachableError),
        (OSError(errno.EMFILE, "Too many open files"), UserError),
        (TimeoutError("ChainedFuture timed out after 1769.38 seconds."), UnreachableError),
    ],
)
def test_write_error_has_kind_of_its_cause(config, tmp_path, monkeypatch, error, kind):
    """gcsfuse returns EMFILE if it can't rename a folder, as Orbax does with checkpoints."""

    monkeypatch.setattr(os, "rmdir", Mock(side_effect=error))
    with pytest.raises(UserError, match="A checkpoint can't be written") as got:
        saved(config, tmp_path, 1)
    assert type(got.value) is kind


@pytest.mark.parametrize("worst,kind", [(2, UnreachableError), (3, UserError)])
def test_read_error_of_other_process_is_raised_here(config, workdir, monkeypatch, worst, kind):
    saved(config, workdir, 1, 2)
    monkeypatch.setattr(checkpoint_errors, "global_max", lambda here: max(here, worst))
    with pytest.raises(UserError, match="another process can't read its part") as got:
        restored(config, workdir)
    assert type(got.value) is kind


def test_damage_found_by_other_process_is_damage_here(config, workdir, monkeypatch, capsys):
    saved(config, workdir, 1, 2)
    worst = iter((0, 1))  # the record is readable, the first item is not
    monkeypatch.setattr(checkpoint_errors, "global_max", lambda here: max(here, next(worst, 0)))
    assert int(restored(config, workdir).step) == 1
    assert "step 2: another process can't read its part" in capsys.readouterr().out
    assert names(set_aside(workdir / "2"))


def test_stale_listing_after_renaming_is_reloaded(config, tmp_path, monkeypatch):
    saved(config, tmp_path, 1, 2)
    flip_a_bit(values_file(tmp_path / "2" / "student"))
    steps, stale = ocp.CheckpointManager.all_steps, iter([[1, 2], [1, 2]])

    def lagging(self, *args, **kwargs):
        found = steps(self, *args, **kwargs)
        return found if 2 in found else next(stale, found)

    monkeypatch.setattr(ocp.CheckpointManager, "all_steps", lagging)
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert int(restored(config, tmp_path).step) == 1
    assert next(stale, None) is None


def test_full_disk_is_one_sentence(config, tmp_path):
    """A limit of the file size simulates a full disk."""
    saved(config, tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError) as error:
            saved(config, tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"A checkpoint can't be written to {tmp_path} (" in str(error.value)
    tiny_state.assert_same(restored(config, tmp_path), tiny_state.fill(1))


@contextlib.contextmanager
def without_privileges():
    """Drops the privileges of root, which may write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_read_only_directory_is_one_sentence(config):
    with tempfile.TemporaryDirectory() as name:  # readable by other users
        folder = saved(config, Path(name) / "checkpoints", 1)
        folder.parent.chmod(0o755)
        folder.chmod(0o555)
        with without_privileges():
            with pytest.raises(UserError) as error:
                saved(config, folder, 2)
            tiny_state.assert_same(restored(config, folder), tiny_state.fill(1))
        assert f"A checkpoint can't be written to {folder} (" in str(error.value)
        assert "Permission denied" in str(error.value)
        folder.chmod(0o755)


def test_removed_directory_is_one_sentence(config, tmp_path):
    state = tiny_state.fill(1)
    with Checkpoints(tmp_path / "there", config, RECORDS, DATA) as checkpoints:
        shutil.rmtree(tmp_path / "there")
        with pytest.raises(UserError, match="the folder is missing"):
            checkpoints.save(1, state)


def test_directory_that_cannot_be_created_is_one_sentence(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be used"):
        Checkpoints(tmp_path / "file" / "checkpoints", config, RECORDS, DATA)


def test_edited_record_is_damage(config, workdir):
    saved(config, workdir, 1)
    path = workdir / "1" / "run" / "metadata"
    record = json.loads(storage.read(str(path)))
    record["config"]["seed"] = 5
    storage.write(str(path), json.dumps(record).encode())
    with pytest.raises(UserError, match="No checkpoint"):
        restored(config, workdir)
