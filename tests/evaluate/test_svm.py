import numpy as np
import pytest
from sklearn.svm import LinearSVC

from xkd_jax.config.evaluation import SvmConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.evaluate import svm
from xkd_jax.evaluate.feature_store import FeatureSet
from xkd_jax.evaluate.frozen import SvmProtocol
from xkd_jax.parallel.mesh import make_mesh

COSTS = (1e-3, 1e-1, 1.0)


@pytest.fixture(scope="module")
def data():
    """Features like an encoder's: one large common direction, others of decreasing size."""
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=603)  # not a multiple of the devices
    centers = rng.normal(size=(5, 24))
    x = (centers[labels] + 1.5 * rng.normal(size=(603, 24))) * np.exp(-np.arange(24) / 8)
    return (x + 4 * rng.normal(size=24)).astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted(data):
    return svm.fit_path(*data, 5, SvmConfig(costs=COSTS), make_mesh(MeshConfig()))


def loss(weights, x, labels, cost):
    signs = np.where(labels[:, None] == np.arange(5), 1, -1)
    violations = np.maximum(0, 1 - signs * (x.astype(np.float64) @ weights[:-1] + weights[-1]))
    return np.square(weights).sum(0) / 2 + cost * np.square(violations).sum(0)


@pytest.mark.parametrize("cost", COSTS)
def test_every_class_reaches_minimum_of_scikit_learn(data, fitted, cost):
    x, labels = data
    reference = LinearSVC(C=cost, dual=False, tol=1e-8, max_iter=10_000).fit(x, labels)
    weights = np.concatenate([reference.coef_, reference.intercept_[:, None]], axis=1).T
    expected = loss(weights, x, labels, cost)
    np.testing.assert_allclose(
        loss(fitted[cost].astype(float), x, labels, cost), expected, rtol=1e-5
    )
    found, decided = svm.decide(fitted[cost], x), reference.decision_function(x)
    np.testing.assert_allclose(found, decided, atol=0.02)
    assert (found.argmax(1) == decided.argmax(1)).mean() > 0.99


def test_unsolved_class_is_reported(data, capsys):
    unsolved = SvmConfig(costs=(1.0,), max_iterations=1)
    svm.fit_path(*data, 5, unsolved, make_mesh(MeshConfig()))
    assert "svm       cost 1: 5 of 5 classes not solved after" in capsys.readouterr().out


def test_long_fit_prints_progress(data, monkeypatch, capsys):
    monkeypatch.setattr("data_pipelines.progress.LINE_SECONDS", 0.0)
    svm.fit_path(*data, 5, SvmConfig(costs=COSTS), make_mesh(MeshConfig()))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["svm"] * 3
    assert ["costs 1/3" in lines[0], "costs 3/3" in lines[2]] == [True, True]


@pytest.mark.parametrize(
    "costs, said",
    [
        ((1e-3, 1e-2), "cost 0.01 is best, the largest of svm.costs"),
        ((10.0, 100.0), "cost 10 is best, the smallest of svm.costs"),
        ((1e-1, 1.0, 10.0), ""),
        ((1e-6, 1e-5), ""),  # both always predict the most frequent class
        ((1e-3,), ""),
    ],
)
def test_best_cost_at_end_of_grid_is_reported(data, capsys, costs, said):
    x, labels = data
    records = np.arange(len(x))
    found = FeatureSet({"video": x[:, None, None]}, labels, records)
    protocol = SvmProtocol(
        SvmConfig(costs), 5, make_mesh(MeshConfig()), train_fraction=1.0, held_out=0.2, seed=0
    )
    protocol(found, found, records[:400], records[400:])
    printed = capsys.readouterr().out
    assert said in printed
    assert ("svm.costs" in printed) == bool(said)


def test_fewer_samples_than_dimensions_are_fitted():
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(6, 40)).astype(np.float32), np.arange(6) % 3
    found = svm.fit_path(x, labels, 3, SvmConfig(costs=(1.0,)), make_mesh(MeshConfig()))[1.0]
    assert (svm.decide(found, x).argmax(1) == labels).all()
