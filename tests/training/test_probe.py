import dataclasses
import types

import numpy as np
import pytest
import toy_shards

from data_pipelines.errors import UserError
from data_pipelines.read.dataset import open_dataset
from xkd_jax.training import train
from xkd_jax.training.probe import knn_probe, labeled


def test_neighbors_vote_by_angle():
    far, near = np.array([[9.0, 0.1], [0.1, 9]]), np.array([[1.0, 0.1], [0.1, 1]])
    bank = {"student video": np.tile(far, (4, 1)), "label": np.tile([3, 1], 4)}
    queries = {"student video": np.concatenate([near, near]), "label": np.array([3, 1, 3, 3])}
    assert knn_probe(bank, queries, 4, 2) == {"student video": 75.0}


def test_a_class_that_no_training_record_has_is_a_miss():
    bank = {"student video": np.array([[1.0, 0.1], [0.1, 1]]), "label": np.array([0, 1])}
    queries = {"student video": np.array([[1.0, 0.1], [0.1, 1]]), "label": np.array([0, 2])}
    assert knn_probe(bank, queries, 3, 1) == {"student video": 50.0}


def test_records_without_a_class_are_left_out_and_counted(capsys):
    found = {"student video": np.arange(3.0)[:, None], "label": np.array([2, -1, 0])}
    left = labeled(found, "test")
    np.testing.assert_array_equal(left["student video"], [[0], [2]])
    np.testing.assert_array_equal(left["label"], [2, 0])
    assert "1 of 3 test records have no class: left out" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"None of the 1 records .* split test has a class"):
        labeled({"label": np.array([-1])}, "test")


def test_probes_count_the_classes_of_the_data_set(tmp_path):
    directory = toy_shards.write(tmp_path, [toy_shards.record(0)])
    dataset = open_dataset(toy_shards.CONFIG, directory, "train")
    run = types.SimpleNamespace(config=toy_shards.CONFIG, batch_sharding=None, rows=range(4))
    assert train.probes_of(run, dataset, dataset).classes == 3


@pytest.mark.parametrize("changes", [{"class_names": ()}, {"multi_label": True}])
def test_probes_ask_for_one_class_a_record(tmp_path, changes):
    directory = toy_shards.write(tmp_path, [toy_shards.record(i) for i in range(4)])
    dataset = open_dataset(toy_shards.CONFIG, directory, "train")
    other = dataclasses.replace(dataset, metadata=dataclasses.replace(dataset.metadata, **changes))
    run = types.SimpleNamespace(config=toy_shards.CONFIG)
    with pytest.raises(UserError, match="has not one class a record"):
        train.probes_of(run, other, dataset)
