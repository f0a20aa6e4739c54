import numpy as np
import pytest

from data_pipelines.errors import UserError
from xkd_jax.training.probe import knn_probe, labeled


def test_knn_probe_uses_cosine_similarity():
    far, near = np.array([[9.0, 0.1], [0.1, 9]]), np.array([[1.0, 0.1], [0.1, 1]])
    bank = {"student video": np.tile(far, (4, 1)), "label": np.tile([3, 1], 4)}
    queries = {"student video": np.concatenate([near, near]), "label": np.array([3, 1, 3, 3])}
    assert knn_probe(bank, queries, 4, 2) == {"student video": 75.0}


def test_knn_probe_misses_class_without_training_record():
    bank = {"student video": np.array([[1.0, 0.1], [0.1, 1]]), "label": np.array([0, 1])}
    queries = {"student video": np.array([[1.0, 0.1], [0.1, 1]]), "label": np.array([0, 2])}
    assert knn_probe(bank, queries, 3, 1) == {"student video": 50.0}


def test_records_without_class_are_excluded_and_counted(capsys):
    found = {"student video": np.arange(3.0)[:, None], "label": np.array([2, -1, 0])}
    left = labeled(found, "test")
    np.testing.assert_array_equal(left["student video"], [[0], [2]])
    np.testing.assert_array_equal(left["label"], [2, 0])
    assert "1 of 3 test records without a class: left out" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"None of the 1 records of split test .* has a class"):
        labeled({"label": np.array([-1])}, "test")
