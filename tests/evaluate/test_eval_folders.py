"""Checks of an evaluation's folders, data set and result file."""

import dataclasses
import json
import shutil
from unittest.mock import Mock

import pytest
import toy_shards

from data_pipelines.errors import UserError
from xkd_jax.config.evaluation import EvalConfig, EvalDataConfig, KnnConfig
from xkd_jax.evaluate import data_set, evaluation, pretrained, result, splits, workdir
from xkd_jax.evaluate.fold_scores import FoldScores
from xkd_jax.evaluate.network import Network
from xkd_jax.inference.loaded import Origin
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.checkpoints.run_record import RunRecord

DATA = data_set.DataSummary("toy", 2, ["all"], {"all": 8}, {"all": "0a"}, [], [], {})
OTHER_DATA = dataclasses.replace(DATA, digest={"all": "0b"})


def _source(**changes):
    identity = {"step": 7, "crc32": 42} | changes
    run, origin = toy_shards.CONFIG, Origin("run", "a run", "student", 7)
    return pretrained.Pretrained(origin, identity, Network({}, run.model), {}, run, run)


def _finish(folder, config, source=None):
    workdir.check(folder, "")
    scores = {0: FoldScores(value=50.0, test_records=8)}
    measured = result.Measured("top-1", scores, 50.0)
    return result.finish(config, source or _source(), DATA, measured, folder)


def test_repeated_evaluation_keeps_its_result(tmp_path):
    config = EvalConfig(benchmark="toy")
    written = _finish(tmp_path, config)
    kept = json.loads((tmp_path / "result.json").read_text())
    assert kept["data"] == dataclasses.asdict(DATA) == written["data"]
    assert kept["per_fold"] == [{"fold": 0, "value": 50.0, "test_records": 8}]
    elsewhere = dataclasses.replace(config, data=EvalDataConfig(dir="moved"), log_every=1)
    result.refuse_other(elsewhere, _source(), DATA, tmp_path)
    del written["data"], written["config"]["knn"]["k"]  # as written by an earlier version
    (tmp_path / "result.json").write_text(json.dumps(written))
    result.refuse_other(config, _source(), DATA, tmp_path)


@pytest.mark.parametrize(
    "changes,source,data,sentence",
    [
        ({"network": "teacher"}, {}, DATA, r"network was 'student', now 'teacher'"),
        ({"knn": KnnConfig(k=3)}, {}, DATA, r"knn\.k was 20, now 3"),
        ({}, {"crc32": 43}, DATA, r"checkpoint\.crc32 was 42, now 43"),
        ({}, {}, OTHER_DATA, r"data\.digest\.all was '0a', now '0b'"),
    ],
)
def test_result_of_other_evaluation_is_not_overwritten(tmp_path, changes, source, data, sentence):
    config = EvalConfig(benchmark="toy")
    _finish(tmp_path, config)
    with pytest.raises(UserError, match=sentence + r"\): move it away"):
        result.refuse_other(
            dataclasses.replace(config, **changes), _source(**source), data, tmp_path
        )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": 1, "checkpoint": 2}'])
def test_file_that_is_not_a_result_is_not_overwritten(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match="not a result of an evaluation: move it away"):
        result.refuse_other(EvalConfig(), _source(), DATA, tmp_path)


def test_result_is_printed_before_it_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(result, "write_once", Mock(side_effect=UserError("The disk is full.")))
    with pytest.raises(UserError, match="full"):
        _finish(tmp_path, EvalConfig(benchmark="toy"))
    assert "top-1 50.00 %" in capsys.readouterr().out


def test_workdir_of_pretraining_run_is_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="is the folder of a pretraining run: give another --work"):
        workdir.check(checkpoint, "")
    (tmp_path / "config.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(UserError, match="is the folder of a pretraining run"):
        workdir.check(tmp_path, "")
    (tmp_path / "config.json").write_text(json.dumps({"protocol": "svm"}))
    workdir.check(tmp_path, "")


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_invalid_folders_are_refused_before_reading(tmp_path, name):
    (tmp_path / "file").write_text("")
    config = EvalConfig(checkpoint="nowhere")
    with pytest.raises(UserError, match=r"can't be used as a folder .* by --workdir"):
        evaluation.evaluate(config, tmp_path / name)
    config = dataclasses.replace(config, features=str(tmp_path / name))
    with pytest.raises(UserError, match=r"can't be used as a folder .* by --config\.features"):
        evaluation.evaluate(config, tmp_path / "run")


def check(directory, benchmark="", protocol="svm", modalities=("video",)):
    data_set.check(directory, benchmark, protocol, modalities)


def test_shards_of_other_benchmark_are_refused(tmp_path):
    metadata = dataclasses.replace(toy_shards.METADATA, name="kinetics400")
    directory = toy_shards.write(tmp_path, [toy_shards.record(0)], metadata)
    check(directory, benchmark="k400")
    check(directory, benchmark="knn")
    with pytest.raises(UserError, match=r"kinetics400, .* benchmark ucf101: .*=kinetics400 for"):
        check(directory, benchmark="ucf101")


def test_missing_modality_is_refused_with_available_one(tmp_path):
    metadata = dataclasses.replace(toy_shards.METADATA, frame_rate=0.0)
    directory = toy_shards.write(tmp_path, [toy_shards.record(0)], metadata)
    check(directory, modalities=("audio",))
    with pytest.raises(UserError, match=r"has no video: give --config\.modality=audio\.$"):
        check(directory)
    with pytest.raises(UserError, match="has no video: give a data set that has both"):
        check(directory, protocol="retrieval", modalities=("video", "audio"))


def test_result_counts_files_left_out_of_data_set(tmp_path):
    metadata = dataclasses.replace(toy_shards.METADATA, folds=3, left_out={"decode": 1200})
    uses = [(1, 2), (2, 3), (3, 1)]
    records = [
        dataclasses.replace(
            toy_shards.record(i), train_folds=uses[i], test_folds=(1 + (i + 2) % 3,)
        )
        for i in range(3)
    ]
    directory = toy_shards.write(tmp_path, records, metadata)
    data = EvalDataConfig(dir=directory, train_split="train", folds=(1, 3))
    benchmark = splits.open_benchmark(toy_shards.CONFIG, data)
    said = data_set.DataSummary.of(benchmark)
    assert dataclasses.asdict(said) == {
        "name": "toy",
        "classes": 3,
        "splits": ["train"],
        "records": {"train": 3},
        "digest": {"train": benchmark.train_index.digest},
        "folds": [1, 3],
        "folds_left_out": [2],
        "left_out": {"decode": 1200},
        "class_names": ["a", "b", "c"],
    }
    assert said.describe().splitlines()[1:] == [
        "left out  folds 2, which --config.data.folds doesn't name",
        "left out  files when the data set was built: 1,200 decode",
    ]
    assert dataclasses.replace(said, folds_left_out=[], left_out={}).describe() == ""


def test_folder_without_pretraining_run_is_refused(checkpoint, tmp_path):
    config = EvalConfig(checkpoint=str(checkpoint / "checkpoints" / "7"))
    mesh = mesh_lib.make_mesh(config.mesh)
    for folder in (checkpoint / "checkpoints" / "7", tmp_path):
        with pytest.raises(UserError, match=r"holds no checkpoint .*=RUN, the folder"):
            pretrained.load(dataclasses.replace(config, checkpoint=str(folder)), mesh)
    shutil.copytree(checkpoint / "checkpoints", tmp_path / "fold0" / "checkpoints")
    path = tmp_path / "fold0" / "checkpoints" / "7" / "run" / "metadata"
    content = json.loads(path.read_text())
    content.pop("crc32")
    trained = RunRecord(**content | {"config": {"protocol": "linear"}})
    path.write_text(json.dumps(trained.to_json()))
    with pytest.raises(UserError, match="has a classifier that an evaluation trained: give"):
        pretrained.load(dataclasses.replace(config, checkpoint=str(tmp_path / "fold0")), mesh)
