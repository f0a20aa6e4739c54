"""Evaluations from files in a benchmark's layout to the result file."""

import dataclasses
import importlib
import json
import os
import shutil
import types
from pathlib import Path

import jax
import miniatures
import numpy as np
import pytest
from failing_calls import Killed, kill_after
from random_parameters import random_student

from configs.eval import own
from data_pipelines import split_indexes
from data_pipelines.errors import UserError
from data_pipelines.format import record_schema, shards
from data_pipelines.read.dataset import open_dataset
from xkd_jax.augment import augment
from xkd_jax.config import evaluation as eval_config
from xkd_jax.config.evaluation import ClipsConfig, EvalDataConfig
from xkd_jax.config.fit_settings import FitAugmentConfig, FitConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.evaluate import (
    eval_clips,
    evaluation,
    feature_store,
    features,
    frozen,
    pretrained,
)
from xkd_jax.inference.run_checkpoint import encoders_of_run
from xkd_jax.method.train_state import module_of
from xkd_jax.networks.encoder import pool
from xkd_jax.networks.student import Teacher, teacher_counterpart
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.train import pipeline

FILES = sorted(p.stem for p in (Path(__file__).parents[2] / "configs" / "eval").glob("[a-z]*.py"))
MODALITIES = ("video", "audio", "both")
VARIANTS = {
    "finetune": ("ucf101", "hmdb51", "k400", "esc50", "fsd50k"),
    "k400_linear": ("linear", "attentive"),
    "kinetics_sound": MODALITIES,
    "low_shot": ("1", "5", "10"),
    "own": ("svm", "knn", "linear", "finetune", "knn_both", "linear_audio"),
    "knn": MODALITIES,
    "retrieval": ("head", "encoder"),
    "spoken_digits": MODALITIES,
}
CONFIGS = [(name, variant) for name in FILES for variant in ("", *VARIANTS.get(name, ()))]


@pytest.fixture(scope="module")
def kinetics_sound(tmp_path_factory):
    return miniatures.kinetics_sound(tmp_path_factory.mktemp("Kinetics"))


@pytest.mark.parametrize("name,variant", CONFIGS)
def test_every_evaluation_resolves(name, variant):
    module = importlib.import_module(f"configs.eval.{name}")
    config = eval_config.resolve(module.get_config(*filter(None, [variant])))
    assert config.benchmark
    assert (config.data.folds == ()) == (config.data.train_split == "train")


@pytest.mark.parametrize("name", VARIANTS)
def test_unknown_variant_is_refused(name):
    with pytest.raises(UserError, match="no variant 'other'"):
        importlib.import_module(f"configs.eval.{name}").get_config("other")


def test_esc50_folds_without_network(checkpoint, esc50, tmp_path, capsys):
    config = miniatures.evaluation(checkpoint, esc50, network="log_mel", modality="audio")
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, folds=(1, 2, 3, 4, 5))
    )
    written = dataclasses.replace(config, network="student")
    content = evaluation.evaluate(config, tmp_path, written)
    assert [fold["value"] for fold in content["per_fold"]] == [100.0] * 5
    assert [fold["test_records"] for fold in content["per_fold"]] == [4] * 5
    assert json.loads(json.dumps(content)) == json.loads((tmp_path / "result.json").read_text())
    assert content["checkpoint"]["step"] == 7
    printed = capsys.readouterr().out
    assert "toy, svm, audio, log_mel: top-1 100.00 % (folds" in printed
    records = ("16, 16, 16, 16, 16 records", "4, 4, 4, 4, 4 records")
    line = "2 classes (high one, low), 5 folds, trained on {}, tested on {}\n".format(*records)
    assert line in printed
    first, *_, last = printed.splitlines()
    assert first == "flags     network student -> log_mel"
    assert last == f"next      python -m xkd_jax.report {tmp_path}"

    # the features are the spectrograms' means, clip by clip, and the labels in the targets' order
    (folder,) = (tmp_path / "features").glob("all-test-*")
    found = np.load(folder / "audio.npy")
    assert found.shape == (20, 2, 1, 16)
    viewing = pretrained.viewing(config, pretrained.load(config, _mesh()).views)
    dataset = open_dataset(viewing, esc50, "all", ("audio",))
    labels = np.load(folder / "label.npy")
    audio = viewing.audio
    for number in (0, 13):
        record = dataset[number]
        assert labels[number] == ("-7.wav" in record.id)
        first = record_schema.decode_log_mel(record.log_mel[:, : audio.columns])
        expected = ((first - audio.mean) / audio.std).mean(1)
        np.testing.assert_allclose(found[number, 0, 0], expected, atol=1e-4)

    np.save(folder / "label.npy", np.where(labels == 1, 2, labels))  # the classes are 0 and 1
    again = dataclasses.replace(config, features=str(tmp_path / "features"))
    with pytest.raises(UserError, match=r"all-test-\w+ are not classes of .*: delete that folder"):
        evaluation.evaluate(again, tmp_path / "again")


def _mesh():
    return mesh_lib.make_mesh(MeshConfig())


def test_ucf101_folds_with_clips_and_crops(checkpoint, ucf101, small, tmp_path):
    config = miniatures.evaluation(checkpoint, ucf101, clips=ClipsConfig(train=2, test=3, crops=3))
    content = evaluation.evaluate(config, tmp_path)
    assert [fold["value"] for fold in content["per_fold"]] == [100.0] * 3
    (folder,) = (tmp_path / "features").glob("all-test-*")
    found = np.load(folder / "video.npy")
    assert found.shape == (6, 3, 3, 24)
    # the probe of `small` uses the middle crop of the middle clip
    source = pretrained.load(config, _mesh())
    views = pretrained.viewing(config, source.views)
    dataset = open_dataset(views, ucf101, "all", ("video",))
    (batch,) = pipeline.eval_batches(views, dataset, modalities=("video",))
    student = teacher_counterpart(random_student(small, 0), small.architecture)

    @jax.jit
    def encode(student, video):
        view = augment(views, {"video": video})["video"]["global"]
        return pool(module_of(Teacher, student, source.run.architecture).encoders("video", view))

    seen = encode(student, batch["video"])
    np.testing.assert_allclose(found[:, 1, 1], np.asarray(seen)[:6], atol=1e-4)


def test_both_modalities_of_kinetics_sound(checkpoint, kinetics_sound, tmp_path, monkeypatch):
    config = miniatures.evaluation(
        checkpoint,
        kinetics_sound,
        modality="both",
        clips=ClipsConfig(train=1, test=2, crops=3),
        data=EvalDataConfig(dir=kinetics_sound, test_split="validation", threads=2),
        features=str(tmp_path / "features"),
    )
    found = evaluation.evaluate(config, tmp_path / "svm")
    assert found["value"] == 100
    assert found["per_fold"][0]["train_records"] == 8
    (folder,) = (tmp_path / "features").glob("validation-test-*")
    widths = {path.stem: np.load(path).shape for path in folder.glob("*.npy")}
    assert widths == {"video": (4, 2, 3, 24), "audio": (4, 2, 1, 24), "label": (4,)}
    assert set(np.load(folder / "label.npy")) == {2, 25}  # bowling, singing

    # retrieval needs the test features alone, which are stored
    retrieval = dataclasses.replace(config, protocol="retrieval")
    monkeypatch.setattr(features, "clip_batches", None)  # fails if it is called
    found = evaluation.evaluate(retrieval, tmp_path / "retrieval")
    assert found["metric"] == "recall at 1"
    assert found["per_fold"][0]["audio_to_video_same_class_recall_5"] == 100
    assert found["value"] <= found["per_fold"][0]["video_to_audio_recall_10"] == 100


def test_own_folder_with_held_out_files(checkpoint, tmp_path, capsys):
    raw = own.get_config("knn_audio")
    directory = miniatures.own(tmp_path / "sounds")
    raw.update_from_flattened_dict(
        {"checkpoint": str(checkpoint), "network": "log_mel", "knn.k": 3, "data.dir": directory}
    )
    capsys.readouterr()
    found = evaluation.evaluate(eval_config.resolve(raw), tmp_path / "own")
    assert found["value"] == 100
    assert found["chance"] == 50
    assert found["data"]["class_names"] == ["high", "low"]
    assert "top5" not in found["per_fold"][0]
    told = capsys.readouterr().out
    data = "data      folder, 2 classes (high, low), trained on 7 records, tested on 2 records\n"
    assert data in told
    assert "chance    top-1 of a random guess 50.00 %, of the largest class 50.00 %\n" in told
    assert "own, knn, audio, log_mel: top-1 100.00 %; chance 50.00\n" in told
    assert "fold 0" not in told
    assert "top-5" not in told


def test_low_shot_and_knn_use_fraction_of_each_class(checkpoint, kinetics_sound, tmp_path):
    config = miniatures.evaluation(
        checkpoint,
        kinetics_sound,
        network="log_mel",
        modality="audio",
        train_fraction=0.25,
        data=EvalDataConfig(dir=kinetics_sound, test_split="validation", threads=2),
    )
    found = evaluation.evaluate(config, tmp_path / "svm")
    assert found["value"] == 100
    assert found["train_fraction"] == 0.25
    assert found["per_fold"][0]["train_records"] == 2
    assert "held_out_cost" not in found["per_fold"][0]  # one record of a class can't be held out
    knn = dataclasses.replace(config, protocol="knn", knn=eval_config.KnnConfig(k=1))
    found = evaluation.evaluate(knn, tmp_path / "knn")
    assert found["value"] == 100
    assert found["per_fold"][0]["train_records"] == 2


def test_killed_extraction_resumes_and_finished_one_is_reused(
    checkpoint, esc50, tmp_path, monkeypatch
):
    config = miniatures.evaluation(checkpoint, esc50, network="log_mel", modality="audio")
    whole = evaluation.evaluate(config, tmp_path / "whole")
    monkeypatch.setattr("data_pipelines.progress.LINE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        calls = kill_after(patch, eval_clips.mesh_lib, "put_batch", 4)
        with pytest.raises(Killed):
            evaluation.evaluate(config, tmp_path / "killed")
    made = len(calls)
    again = evaluation.evaluate(config, tmp_path / "killed")
    assert again["per_fold"] == whole["per_fold"]
    for path in (tmp_path / "whole" / "features").glob("*/*.npy"):
        resumed = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
        np.testing.assert_array_equal(np.load(path), np.load(resumed))
    assert made == 5
    with monkeypatch.context() as patch:
        patch.setattr(features, "clip_batches", None)  # fails if it is called
        assert evaluation.evaluate(config, tmp_path / "whole")["value"] == whole["value"]


def test_features_of_changed_shards_are_not_reused(checkpoint, esc50, tmp_path):
    config = miniatures.evaluation(
        checkpoint, esc50, network="log_mel", modality="audio", features=str(tmp_path / "features")
    )
    assert evaluation.evaluate(config, tmp_path / "before")["value"] == 100
    moved = shutil.copytree(esc50, tmp_path / "moved")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=str(moved)))
    evaluation.evaluate(config, tmp_path / "moved_run")
    assert len(list((tmp_path / "features").iterdir())) == 2  # train and test

    views = pretrained.viewing(config, pretrained.load(config, _mesh()).views)
    dataset = open_dataset(views, str(moved), "all", ("audio",))
    (path,) = dataset.source.paths
    size = os.path.getsize(path)
    records = [dataset[i] for i in range(len(dataset))]
    others = [dataclasses.replace(r, label=r.label ^ (i % 4 == 0)) for i, r in enumerate(records)]
    shards.write_shard(path, map(record_schema.serialize, others))
    assert os.path.getsize(path) == size
    assert split_indexes.main([str(moved)]) == 0
    assert evaluation.evaluate(config, tmp_path / "after")["value"] < 100


def test_center_view_is_one_square_for_any_number_of_crops(small):
    for crops in (1, 3):
        shown = eval_clips.PlainViews("center", crops)(small, (64, 90), None)["video"]["global"]
        assert shown["frames"].box == (4, 17, 56, 56)
    assert (
        eval_clips.PlainViews("spread", 3)(small, (64, 90), None)["video"]["global"][
            "frames"
        ].shape[0]
        == 3
    )
    found = []
    for shown in (ClipsConfig(crops=3), ClipsConfig(crops=1), ClipsConfig(view="center")):
        source = types.SimpleNamespace(identity={"step": 1, "crc32": 2})
        extraction = features.Extraction(
            "student", "encoder", ("video",), shown, source, small, None, None, None
        )
        found.append(extraction.made_from("content", "all", np.arange(3), "test"))
    assert found[0] != found[1]
    assert found[2] not in found[:2]  # kept apart from the features of other views


def test_nonfinite_features_are_refused(checkpoint, esc50, tmp_path, monkeypatch):
    plain = features.feature_function

    def diverged(*arguments):
        encode = plain(*arguments)

        def encode_to_nan(parameters, batch):
            found = encode(parameters, batch)
            return found | {"audio": found["audio"].at[1].set(np.nan)}

        return encode_to_nan

    monkeypatch.setattr(features, "feature_function", diverged)
    config = miniatures.evaluation(checkpoint, esc50, network="log_mel", modality="audio")
    sentence = r"of .* \(a run, log_mel, step 7\) are not finite for 1 of 8 \(first: .*wav"
    with pytest.raises(UserError, match=sentence):
        evaluation.evaluate(config, tmp_path)


def test_networks_with_shared_blocks_are_evaluated(small, tmp_path):
    config = dataclasses.replace(small, model=dataclasses.replace(small.model, variant="mats"))
    folder = miniatures.checkpoint(tmp_path, config)
    for number, network in enumerate(("student", "teacher")):
        evaluation = miniatures.evaluation(folder, "", network=network)
        evaluation = dataclasses.replace(evaluation, modality="both")
        tree = pretrained.load(evaluation, _mesh()).parameters
        expected = teacher_counterpart(random_student(config, number), config.architecture)
        encoders = {m: w.params for m, w in encoders_of_run(expected, config.architecture).items()}
        expected = {"encoders": encoders, "heads": expected["heads"]}
        assert jax.tree.structure(tree) == jax.tree.structure(expected)
        jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_damaged_checkpoint_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(checkpoint, folder)
    record = folder / "checkpoints" / "7" / "run" / "metadata"
    record.write_text(record.read_text().replace("24/2/2", "24/1/2"))
    with pytest.raises(UserError, match=r"checkpoints/7 is damaged \(its record"):
        pretrained.load(miniatures.evaluation(folder, ""), _mesh())


def test_each_network_of_checkpoint_is_evaluated(checkpoint, esc50, small):
    def kernel(network):
        config = miniatures.evaluation(checkpoint, esc50, network=network, modality="audio")
        tree = pretrained.load(config, _mesh()).parameters
        return np.asarray(tree["encoders"]["audio"]["embedding"]["projection"]["kernel"])

    expected = [
        random_student(small, seed)["encoders"]["embeddings"]["audio"]["projection"]["kernel"]
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(kernel("student"), expected[0])
    np.testing.assert_array_equal(kernel("teacher"), expected[1])
    assert not np.allclose(kernel("untrained"), expected[0])


@pytest.mark.parametrize(
    "changes,sentence",
    [
        ({"checkpoint": ""}, "checkpoint is empty"),
        ({"checkpoint": "nowhere"}, "nowhere is not a folder"),
        ({"step": 3}, "has no checkpoint of step 3: it has 7"),
        ({"data": EvalDataConfig()}, r"data\.dir is empty"),
        ({"clips": ClipsConfig(size=20)}, "give a multiple of 8"),
        ({"fit": FitConfig(augment=FitAugmentConfig(time_warp=16))}, "less than half of the"),
    ],
)
def test_mismatched_data_is_refused_in_one_sentence(checkpoint, esc50, tmp_path, changes, sentence):
    config = miniatures.evaluation(checkpoint, esc50, modality="audio")
    config = dataclasses.replace(config, **changes)
    with pytest.raises(UserError, match=sentence):
        evaluation.evaluate(config, tmp_path)


@pytest.mark.parametrize(
    "changes,sentence",
    [
        ({"network": "log_mel"}, "modality=audio"),
        ({"protocol": "retrieval"}, "modality=both"),
        ({"train_fraction": 0.0}, "train_fraction is 0"),
        ({"protocol": "swm"}, "give one of 'svm'"),
    ],
)
def test_impossible_evaluations_are_refused(changes, sentence):
    raw = eval_config.default()
    raw.update(changes)
    with pytest.raises(UserError, match=sentence):
        eval_config.resolve(raw)


def _set(**found):
    """A feature set with one clip and crop for each row of the arrays."""
    arrays = {name: np.array(values, np.float32)[:, None, None] for name, values in found.items()}
    count = len(next(iter(arrays.values())))
    return feature_store.FeatureSet(arrays, np.arange(count) % 2, np.arange(count))


def test_modalities_are_scaled_separately():
    found = _set(video=[[3, 4], [0, 2]], audio=[[100, 0], [0, -5]])
    joined = frozen.joined(found, np.array([0, 1]))[:, 0, 0]
    np.testing.assert_allclose(joined, [[0.6, 0.8, 1, 0], [0, 1, 0, -1]], atol=1e-6)
    alone = _set(video=[[3, 4], [0, 2]])
    np.testing.assert_allclose(frozen.joined(alone, np.array([1]))[0, 0, 0], [0, 2])


def test_decision_values_are_averaged_over_clips_and_crops():
    features_of = np.array([[[[1.0], [-5.0]], [[1.0], [1.0]]]])  # 2 clips of 2 crops
    weights = np.array([[1.0, -1.0], [0.25, -0.25]])
    scores = frozen.mean_scores(weights, features_of)
    np.testing.assert_allclose(scores, [[-0.25, 0.25]])  # three of four votes are for class 0


def test_retrieval_finds_records_and_classes():
    video = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    audio = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]  # of the records 0 and 2, which share a class
    found = frozen.retrieve(_set(video=video, audio=audio), np.arange(3))
    assert found.value == pytest.approx(100 / 3)
    assert found.recalls["video_to_audio_same_class_recall_1"] == 100
    assert found.to_json()["audio_to_video_recall_5"] == 100
    assert "recalls" not in found.to_json()


@pytest.mark.parametrize("several_labels", [False, True])
def test_retrieval_in_blocks_equals_retrieval_at_once(monkeypatch, several_labels):
    rng = np.random.default_rng(3)
    video, audio = rng.normal(size=(2, 30, 6))
    found = _set(video=video, audio=video + 2 * audio)
    target = rng.integers(-1, 4, size=30)
    if several_labels:
        target = (rng.random((30, 5)) < 0.2).astype(np.uint8)
    found = dataclasses.replace(found, target=target)
    whole = frozen.retrieve(found, np.arange(30))
    own, shared = (whole.recalls[f"video_to_audio_{k}recall_1"] for k in ("", "same_class_"))
    assert 0 < own < shared < 100
    monkeypatch.setattr(frozen, "QUERIES_AT_ONCE", 7)
    assert frozen.retrieve(found, np.arange(30)) == whole


def test_knn_uses_mean_over_clips(checkpoint):
    settings = eval_config.KnnConfig(k=1)
    train = _set(video=[[1, 0.1], [0.1, 1], [1, 0], [0, 1]])
    test = _set(video=[[2, 0.5], [0.5, 2]])
    records = (np.arange(4), np.arange(2))
    found = frozen.knn(settings, 2, train, test, *records, train_fraction=1.0, seed=0)
    assert found.value == 100
