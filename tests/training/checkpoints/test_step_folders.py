"""Checkpoints in folders with another step's name, and saves that wrote nothing."""

import dataclasses
import shutil

import jax
import miniatures
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_state
from stored_files import copy, names, remove, rename
from tiny_checkpoints import DATA, RECORDS, restored, saved

from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import storage
from data_pipelines.lease import LeaseLostError
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.evaluate import pretrained
from xkd_jax.evaluate.fit_checkpoints import FitCheckpoints
from xkd_jax.evaluate.fitting import FitState
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.bucket_checkpoints import BucketCheckpoints
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.checkpoints.checkpoint_errors import DamagedError
from xkd_jax.training.checkpoints.saved_checkpoint import read_record, step_folders, step_of


def listed(folder):
    """The files and folders directly in a folder."""
    return [*storage.sizes(str(folder)), *storage.subfolders(str(folder))]


@pytest.fixture
def config(small):
    return dataclasses.replace(small, checkpoint=CheckpointConfig(keep_last=0))


@pytest.fixture(scope="module")
def three(small, tmp_path_factory):
    """The checkpoints of steps 1, 4 and 9."""
    kept = dataclasses.replace(small, checkpoint=CheckpointConfig(keep_last=0))
    return saved(kept, tmp_path_factory.mktemp("three"), 1, 4, 9)


def renamed(*pairs):
    """Returns a function that renames folders simultaneously."""

    def change(folder):
        for before, _ in pairs:
            rename(folder / before, folder / f"{before}.moving")
        for before, after in pairs:
            rename(folder / f"{before}.moving", folder / after)

    return change


def copied(before, after):
    return lambda folder: copy(folder / before, folder / after)


# {change by a user: (function, step that a run resumes from, folders renamed as damaged)}
CHANGES = {
    "renamed to a later step": (renamed(("9", "20")), 4, ["20"]),
    "renamed to an earlier step": (renamed(("4", "3"), ("9", "2")), 1, ["2", "3"]),
    "copied to a later step": (copied("4", "1000"), 9, ["1000"]),
    "copied to an earlier step": (copied("9", "7"), 9, []),
    "swapped": (renamed(("4", "9"), ("9", "4")), 1, ["4", "9"]),
    "moved round": (renamed(("1", "4"), ("4", "9"), ("9", "12")), None, []),
    "a zero before it": (renamed(("9", "09")), 4, ["09"]),
    "copied with zeros": (copied("4", "0100"), 9, ["0100"]),
    "copied with a zero": (copied("9", "09"), 9, []),
    "all with zeros": (renamed(("1", "01"), ("4", "04"), ("9", "09")), None, []),
}
# Changes that a bucket can't have.
OF_FOLDERS = {
    "a file": (lambda folder: (folder / "30").write_text(""), 9, ["30"]),
    "an empty folder": (lambda folder: (folder / "30").mkdir(), 9, ["30"]),
}


# The names of objects in all buckets are handled by the same lines.
in_one_bucket = pytest.mark.parametrize("workdir", ["folder", "gs"], indirect=True)


@in_one_bucket
@pytest.mark.parametrize("change,step,aside", CHANGES.values(), ids=CHANGES)
def test_run_resumes_from_checkpoint_with_matching_name(
    config, three, workdir, capsys, change, step, aside
):
    folder = workdir / "checkpoints"
    copy(three, folder)
    change(folder)
    before = names(folder)
    if step is None:
        with pytest.raises(UserError, match=r"No checkpoint in .* is intact"):
            restored(config, folder)
        assert names(folder) == before
        assert capsys.readouterr().out.count(" so the folder was renamed or copied") == 3
        return
    check_resumes(config, folder, capsys, step, aside)


@pytest.mark.parametrize("change,step,aside", OF_FOLDERS.values(), ids=OF_FOLDERS)
def test_run_ignores_folders_that_are_not_checkpoints(
    config, three, tmp_path, capsys, change, step, aside
):
    copy(three, tmp_path / "checkpoints")
    change(tmp_path / "checkpoints")
    check_resumes(config, tmp_path / "checkpoints", capsys, step, aside)


def check_resumes(config, folder, capsys, step, aside):
    """A run resumes from a step, sets checkpoints aside, and saves further ones."""
    with Checkpoints(folder, config, RECORDS, DATA) as checkpoints:
        found = checkpoints.restore(tiny_state.like(tiny_state.fill(0)))
        checkpoints.save(step + 1, tiny_state.fill(step + 1))  # this step exists already
        checkpoints.wait()
    tiny_state.assert_same(found, tiny_state.fill(step))
    printed = capsys.readouterr().out
    assert f"resume    from step {step}, " in printed
    for name in aside:
        assert f"damaged   the checkpoint of step {name}: " in printed
    damaged = {name.partition("/")[0] for name in listed(folder) if ".damaged" in name}
    assert damaged == {f"{name}.damaged" for name in aside}
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(step + 1))


def test_folders_with_other_names_are_ignored(config, three, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    names = ("20.bak", "20 (copy)", "step_20", "-20", "²0", "٢٠", "20.damaged")
    for name in names:
        shutil.copytree(three / "9", folder / name)
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(9))
    assert {path.name for path in folder.iterdir()} == {"1", "4", "9", *names}


def test_renamed_classifier_checkpoint_is_not_used(tmp_path, capsys):
    def state(step):
        values = {"w": jax.device_put(np.full(4, step, np.float32))}
        return FitState(jax.numpy.int32(step), values, {"count": jax.numpy.int32(step)})

    def opened():
        return FitCheckpoints(tmp_path, CheckpointConfig(), {"fold": 1}, RECORDS, DATA)

    with opened() as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.save(2, state(2))
    (tmp_path / "2").rename(tmp_path / "30")
    with opened() as checkpoints:
        found = checkpoints.restore(tiny_state.like(state(0)))
        checkpoints.save(2, state(2))
    assert int(found.step) == 1
    assert "step 30: it was saved as step 2, so the folder was renamed" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "30.damaged"]


@pytest.mark.parametrize("name,asked", [("20", 0), ("20", 20), ("07", 0), ("007", 7)])
def test_evaluation_refuses_renamed_checkpoint(checkpoint, tmp_path, name, asked):
    shutil.copytree(checkpoint, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "7").rename(folder / name)
    config = miniatures.evaluation(tmp_path / "run", "", step=asked)
    with pytest.raises(UserError, match=rf"/{name} is damaged \(it was saved as step 7, so"):
        pretrained.load(config, mesh_lib.make_mesh(config.mesh))
    (folder / name).rename(folder / "7")
    assert pretrained.load(config if asked == 7 else dataclasses.replace(config, step=0),
                           mesh_lib.make_mesh(config.mesh)).identity["step"] == 7  # fmt: skip


def test_checkpoint_beyond_end_of_run_is_refused(config, three, workdir):
    copy(three, workdir / "checkpoints")
    for steps in (9, 8):
        run = tiny_state.run(config, steps)
        with Checkpoints(workdir / "checkpoints", config, RECORDS, DATA) as checkpoints:
            if steps == 9:
                assert int(training.first_state(run, checkpoints).step) == 9
                continue
            with pytest.raises(UserError, match="a run at step 9, and this one ends at step 8"):
                training.first_state(run, checkpoints)


@pytest.mark.parametrize("step", [1, 8, 9])
def test_skipped_save_is_an_error(config, three, workdir, step):
    copy(three, workdir / "checkpoints")
    with (
        pytest.raises(UserError, match=rf"step {step} was not saved, as .* one of step 9: let"),
        Checkpoints(workdir / "checkpoints", config, RECORDS, DATA) as checkpoints,
    ):
        checkpoints.save(step, tiny_state.fill(step))


def test_save_checks_the_lease_once_and_without_it_saves_nothing(config, workdir):
    """Another process has taken over and saved the same step."""
    checks = []

    def check():
        checks.append(is_lost := storage.is_folder(str(workdir / "2")))
        if is_lost:
            raise LeaseLostError("taken over")

    with Checkpoints(workdir, config, RECORDS, DATA, check) as checkpoints:
        checkpoints.save(1, tiny_state.fill(1))
        assert checks == [False]
        checkpoints.wait()
        saved(config, workdir, 2)
        with pytest.raises(LeaseLostError):
            checkpoints.save(2, tiny_state.fill(7))
    assert [step_of(folder) for folder in step_folders(workdir)] == [2, 1]
    tiny_state.assert_same(restored(config, workdir), tiny_state.fill(2))


def _lose(folder):
    remove(folder)


def _rename(folder):
    rename(folder, folder.with_name("5"))


def _lose_index(folder):
    remove(folder / "teacher" / "manifest.ocdbt")


def _lose_record(folder):
    remove(folder / "run" / "metadata")


def _record_of_another(folder):
    record = storage.read(str(folder.parent / "1" / "run" / "metadata"))
    storage.write(str(folder / "run" / "metadata"), record)


@in_one_bucket
@pytest.mark.parametrize("harm", [_lose, _rename, _lose_index, _lose_record, _record_of_another])
@pytest.mark.parametrize("detected_by", ["wait", "the next save", "the end"])
def test_saved_checkpoint_is_verified(config, workdir, monkeypatch, harm, detected_by):
    """The storage reports no error, but saved files are lost, renamed or replaced."""
    harms = [harm]

    def finish_badly(finish, self):
        finish(self)
        if harms and storage.is_folder(str(workdir / "2")):
            harms.pop()(workdir / "2")

    def save_and_wait():
        with Checkpoints(workdir, config, RECORDS, DATA) as checkpoints:
            checkpoints.save(2, tiny_state.fill(2))
            if detected_by == "wait":
                checkpoints.wait()
            if detected_by == "the next save":
                checkpoints.save(3, tiny_state.fill(3))

    saved(config, workdir, 1)
    for manager in (ocp.CheckpointManager, BucketCheckpoints):
        finish = manager.wait_until_finished
        monkeypatch.setattr(
            manager, "wait_until_finished", lambda self, finish=finish: finish_badly(finish, self)
        )
    with pytest.raises(UnreachableError, match="/2 was saved and can't be read back"):
        save_and_wait()


def test_record_has_step_of_its_folder(config, three, tmp_path):
    assert read_record(three / "9").step == 9
    shutil.copytree(three / "9", tmp_path / "8")
    with pytest.raises(DamagedError, match="saved as step 9"):
        read_record(tmp_path / "8")
