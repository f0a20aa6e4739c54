"""Train and test records, and data sets that an evaluation refuses."""

import dataclasses
from unittest.mock import Mock

import numpy as np
import pytest
import toy_shards

from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.read.dataset import index_rows, open_dataset
from xkd_jax.config.evaluation import EvalDataConfig
from xkd_jax.evaluate import splits


def _records(count, **changes):
    return [dataclasses.replace(toy_shards.record(i), **changes) for i in range(count)]


def _open(directory, labeled=True, **data):
    return splits.open_benchmark(
        toy_shards.CONFIG, EvalDataConfig(dir=directory, **data), labeled=labeled
    )


def test_train_and_test_records_never_overlap(tmp_path):
    records = [
        dataclasses.replace(toy_shards.record(i), train_folds=(1,), test_folds=tests)
        for i, tests in enumerate([(2,), (1, 2), (2,)])
    ]
    metadata = dataclasses.replace(toy_shards.METADATA, folds=2)
    directory = toy_shards.write(tmp_path, records, metadata)
    for fold, sentence in ((1, "has 1 record in both training and test"), (2, "has no records")):
        with pytest.raises(UserError, match=sentence):
            _open(directory, folds=(fold,))
    with pytest.raises(UserError, match=r"has folds 1 to 2 and no fold 3: .*config\.data\.folds"):
        _open(directory, folds=(2, 3))


def test_train_fraction_is_of_each_class():
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    chosen, others = splits.some_of_each_class(labels, 0.1, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [10, 1, 1]
    assert sorted([*chosen, *others]) == list(range(111))


def test_used_records_without_class_are_refused(tmp_path):
    unlabeled = dataclasses.replace(toy_shards.record(7), label=-1)
    directory = toy_shards.write(tmp_path, _records(5), test=[*_records(3), unlabeled])
    with pytest.raises(UserError, match=r"1 of 4 records .* none of its 3 classes \(first: clip7"):
        _open(directory)
    assert len(_open(directory, labeled=False).test) == 4  # retrieval uses them
    beyond = dataclasses.replace(toy_shards.record(7), label=3)
    directory = toy_shards.write(tmp_path / "beyond", [*_records(5), beyond], test=_records(3))
    with pytest.raises(UserError, match=r"1 of 6 records .* \(first: clip7"):
        _open(directory)


def test_unlabeled_records_outside_of_folds_are_ignored(tmp_path):
    metadata = dataclasses.replace(toy_shards.METADATA, folds=1)
    one, two = _records(1, train_folds=(1,)), _records(2, test_folds=(1,))[1:]
    directory = toy_shards.write(tmp_path, [*one, *two, *_records(1, label=-1)], metadata)
    benchmark = _open(directory, folds=(1,))
    assert len(benchmark.folds[0].train) == len(benchmark.folds[0].test) == 1


@pytest.mark.parametrize("train,test", [("train", "train"), ("train+test", "test")])
def test_overlapping_splits_are_refused(tmp_path, train, test):
    directory = toy_shards.write(tmp_path, _records(5), test=_records(4))
    with pytest.raises(UserError, match=f"share {test}: give splits"):
        _open(directory, train_split=train, test_split=test)
    found = _open(directory, labeled=False, train_split=train, test_split=test)
    assert found.train is found.test


def test_missing_split_or_fold_is_refused_with_its_key(tmp_path):
    directory = toy_shards.write(tmp_path, _records(5), test=_records(4))
    with pytest.raises(UserError, match=r"--config\.data\.test_split=validation: .* has test, tra"):
        _open(directory, test_split="validation")
    with pytest.raises(UserError, match=r"--config\.data\.train_split=all: "):
        _open(directory, train_split="all")
    one = dataclasses.replace(toy_shards.METADATA, class_names=("a",))
    directory = toy_shards.write(tmp_path / "one", _records(1), one, test=_records(1))
    with pytest.raises(UserError, match="has 1 class, and an evaluation"):
        _open(directory)


def test_unreachable_store_is_a_transient_error(tmp_path, monkeypatch):
    lost = UnreachableError("gs://b can't be reached.")
    monkeypatch.setattr(splits, "open_dataset", Mock(side_effect=lost))
    with pytest.raises(UnreachableError, match=r"data\.test_split=test: gs://b can't be reached"):
        _open(str(tmp_path))


def test_long_reading_of_labels_prints_progress(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("data_pipelines.progress.LINE_SECONDS", 0.0)
    directory = toy_shards.write(tmp_path, _records(5), test=_records(4))
    _open(directory, train_split="train")
    assert "records   train 5/5  " in capsys.readouterr().out


def test_processes_divide_the_reading_of_labels(tmp_path, monkeypatch):
    metadata = dataclasses.replace(toy_shards.METADATA, folds=2)
    records = [
        dataclasses.replace(record, train_folds=(1 + i % 2,), label=-1 if i == 4 else record.label)
        for i, record in enumerate(_records(7))
    ]
    directory = toy_shards.write(tmp_path, records, metadata)
    dataset = open_dataset(toy_shards.CONFIG, directory, "train")
    alone = splits.index_records(dataset, "train", 2)
    assert sorted(alone.label.tolist())[:2] == [-1, 0]
    assert alone.train_folds.sum(0).tolist() == [4, 3]
    padded = np.zeros((3, 3, 5), np.uint32)
    for process in range(3):
        rows = index_rows(dataset, range(process, 7, 3))
        padded[process, : len(rows)] = rows
    monkeypatch.setattr(splits.jax, "process_count", lambda: 3)
    monkeypatch.setattr(splits, "run_on_all", lambda action: action())
    monkeypatch.setattr(
        splits.multihost_utils, "process_allgather", lambda rows, tiled: padded.reshape(9, 5)
    )
    shared = splits.index_records(dataset, "train", 2)
    for field in dataclasses.fields(alone):
        np.testing.assert_array_equal(getattr(shared, field.name), getattr(alone, field.name))
