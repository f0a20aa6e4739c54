import numpy as np
import pytest
from sklearn import metrics as reference

from data_pipelines.errors import UserError
from xkd_jax.metrics.knn import class_scores
from xkd_jax.metrics.scores import (
    average_precision,
    check_finite,
    mean_average_precision,
    ranks,
    top_5,
    top_k,
)


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_equals_scikit_learn(k):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(200, 7)), rng.integers(7, size=200)
    found = reference.top_k_accuracy_score(labels, scores, k=k, labels=range(7))
    assert top_k(scores, labels, k) == pytest.approx(100 * found)


def test_top_5_of_five_classes_is_none():
    scores = np.eye(6, dtype=np.float32)
    assert top_5(scores, np.arange(6)) == 100
    assert top_5(scores[:5, :5], np.arange(5)) is None


def test_a_constant_score_is_never_right():
    assert top_k(np.zeros((5, 3)), np.arange(5) % 3, 1) == 0
    same = np.ones((4, 4))
    assert ranks(same, np.eye(4, dtype=bool)).tolist() == [3] * 4


@pytest.mark.parametrize("decimals", [0, 8])
def test_average_precision_equals_scikit_learn_with_ties(decimals):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(300, 5)).round(decimals)
    targets = (rng.random((300, 5)) < (0.1, 0.5, 0.9, 0.02, 0.0)).astype(np.uint8)
    targets[0, 3] = 1
    for c in range(4):
        expected = reference.average_precision_score(targets[:, c], scores[:, c])
        assert average_precision(scores[:, c], targets[:, c]) == pytest.approx(expected)
    present = reference.average_precision_score(targets[:, :4], scores[:, :4])
    assert mean_average_precision(scores, targets) == pytest.approx(100 * present)


def test_ranks_count_irrelevant_candidates_ahead():
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.3, 0.4, 0.2]])
    own = np.eye(3, dtype=bool)
    assert ranks(similarity, own).tolist() == [0, 1, 2]
    either = own | np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]], bool)
    assert ranks(similarity, either).tolist() == [0, 0, 2]
    assert ranks(similarity, np.zeros((3, 3), bool)).tolist() == [3, 3, 3]


def test_knn_class_scores_equal_explicit_loop():
    rng = np.random.default_rng(2)
    bank, queries = (rng.normal(size=(n, 6)).astype(np.float32) for n in (30, 9))
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    labels = rng.integers(4, size=30)
    expected = np.zeros((9, 4))
    for q, query in enumerate(queries):
        cosine = bank @ query
        for i in np.argsort(-cosine)[:5]:
            expected[q, labels[i]] += np.exp((cosine[i] - 1) / 0.07)
    found = class_scores(bank, labels, queries, 4, 5, 0.07)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (class_scores(bank, labels, bank, 4, 1, 0.07).argmax(1) == labels).all()


def test_nan_scores_count_as_wrong():
    labels = np.arange(6) % 3
    assert top_k(np.full((6, 3), np.nan), labels, 2) == 0
    right = np.eye(3)[labels]
    right[0, 1] = np.nan  # the other score is correct
    assert top_k(right, labels, 1) == pytest.approx(100 * 5 / 6)
    own = np.eye(4, dtype=bool)
    assert ranks(np.full((4, 4), np.nan), own).tolist() == [3] * 4
    assert ranks(np.where(own, np.nan, 0.0), own).tolist() == [3] * 4
    targets = np.array([1, 1, 0, 0])
    worst = average_precision(np.array([0.0, 0.0, 1.0, 1.0]), targets)
    assert average_precision(np.full(4, np.nan), targets) == worst == 0.5


def test_no_positive_at_all_is_one_sentence():
    with pytest.raises(UserError, match="None of the 3 test records has a class"):
        mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2)))


def test_values_that_are_not_finite_are_named():
    values = np.ones((5, 2, 2))
    check_finite(values, "Scores", str, "stop")
    values[2, 1, 0], values[4] = np.inf, np.nan
    with pytest.raises(UserError, match=r"^Scores are not finite for 2 of 5 \(first: 2\): stop\.$"):
        check_finite(values, "Scores", str, "stop")
