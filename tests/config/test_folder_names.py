"""Folders of runs, evaluations and data sets may have any name."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import fsspec
import miniatures
import pytest
import tiny_state
import toy_shards
from tiny_checkpoints import restored, saved

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config import value_checks
from xkd_jax.evaluate import evaluation as evaluation
from xkd_jax.evaluate import pretrained
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.processes import write_once

NAMES = (
    "exp[lr=1e-3]", "a [1-3]", "[!a]", "[", "*", "**", "a?b", "sp ace", "ünï 日本", "new\nline",
    "~", "100%41", "a#b?c=d", "$HOME", "{a,b}", "q'u\"o", "-x", "a:b", "ends~", "5",
)  # fmt: skip


@pytest.fixture(scope="module")
def config(small):
    return small


@pytest.mark.parametrize("name", NAMES)
def test_run_resumes_in_folder_with_any_name(config, tmp_path, name):
    folder = tmp_path / name / "below" / "checkpoints"
    saved(config, folder, 1, 2)
    tiny_state.assert_same(restored(config, folder), tiny_state.fill(2))
    write_once(folder.parent / "config.json", {})
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folders_with_glob_characters_are_distinct(config, tmp_path):
    for step, name in enumerate(("ab", "a*", "a?", "[a]b", "a[b]"), 1):
        saved(config, tmp_path / name, step)
    for step, name in enumerate(("ab", "a*", "a?", "[a]b", "a[b]"), 1):
        tiny_state.assert_same(restored(config, tmp_path / name), tiny_state.fill(step))


def test_run_resumes_by_other_path_of_its_folder(config, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path / "a")
    folders = ("run", "../a/run", "./run/", "../a//run", "../link/run", str(tmp_path / "link/run"))
    for step, folder in enumerate(folders, 1):
        saved(config, Path(folder), step)
        tiny_state.assert_same(restored(config, Path(folder)), tiny_state.fill(step))
    assert sorted(os.listdir(tmp_path)) == ["a", "link"]


@pytest.mark.parametrize("name", ["exp[lr=1e-3]", "a [1-3]/b", "*", "../up/ünï"])
def test_evaluation_reads_and_writes_folders_with_any_name(
    checkpoint, esc50, tmp_path, monkeypatch, name
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for part, source in (("run", checkpoint), ("data", esc50)):
        shutil.copytree(source, f"{name}/{part}")
    config = miniatures.evaluation(f"{name}/run", f"{name}/data", features=f"{name}/features")
    if name == "exp[lr=1e-3]":
        config = dataclasses.replace(
            config, protocol="knn", network="log_mel", modality="audio", benchmark=""
        )
        for _ in range(2):
            found = evaluation.evaluate(config, Path(name) / "evaluation")
        written = json.loads((tmp_path / "here" / name / "evaluation/result.json").read_text())
        assert written["value"] == found["value"]
    mesh = mesh_lib.make_mesh(config.mesh)
    source = pretrained.load(dataclasses.replace(config, network="teacher"), mesh)
    assert (source.identity["step"], bool(source.parameters)) == (7, True)


@pytest.mark.parametrize("name", NAMES)
def test_data_set_is_written_and_read_in_folder_with_any_name(tmp_path, name):
    folder = toy_shards.write(tmp_path / name, map(toy_shards.record, range(3)))
    assert len(open_dataset(toy_shards.CONFIG, folder, "train")) == 3


@pytest.mark.parametrize("name", ["exp[12]", "exp?", "exp*", "*"])
def test_other_folders_of_feature_store_are_kept(name):
    store = fsspec.filesystem("memory")
    folders = [f"memory://remove/{folder}/state" for folder in ("exp1", "exp2", name)]
    for folder in folders:
        with storage.writer(f"{folder}/file") as file:
            file.write(b"x")
    storage.remove_folder(folders[-1])
    storage.remove_folder(f"memory://remove/{name}/never was")
    left = [path.split("/")[-3] for path in store.find("memory://remove")]
    store.rm("/remove", recursive=True)
    assert left == ["exp1", "exp2"]


@pytest.mark.parametrize("name", ["a\\b", "a\udcff", "logs:/run", "gs:", "/gs/bucket", "/s3/x/y"])
def test_names_that_orbax_misreads_are_refused(name):
    with pytest.raises(UserError, match=r"--workdir is .*: give another folder"):
        value_checks.checkpoints_folder("--workdir", name)


@pytest.mark.parametrize("name", [*NAMES, "", "runs/a", "/tmp/gs/s3", "logs", "bags:x", "../x"])
def test_all_other_names_are_accepted(name):
    value_checks.checkpoints_folder("--workdir", name)
