"""Times the linear SVM against scikit-learn's, on features like an encoder's.

    python -m benchmarks.svm [--samples=100000] [--width=768] [--classes=10] [--cost=0.01]

Prints one line of JSON: seconds, CPU seconds and held-out top-1 accuracy (%) of our solver (all
classes at once; the second run, as the first compiles) and of scikit-learn's LinearSVC (the same
problem; its primal solver, the faster one for many samples). Also the largest difference of the
losses relative to scikit-learn's, and the fraction of held-out samples with equal predictions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.svm import LinearSVC

from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from xkd_jax.config.evaluation import SvmConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.evaluate import svm
from xkd_jax.metrics.scores import top_k
from xkd_jax.parallel import mesh as mesh_lib

_HELD_OUT = 10_000


def random_features(samples: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns features of overlapping classes: a common direction, and axes of falling strength."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=samples)
    centers = 0.08 * rng.normal(size=(classes, width)).astype(np.float32)
    features = rng.normal(size=(samples, width)).astype(np.float32)
    features += centers[labels]
    features *= 3 * np.exp(-4 * np.arange(width) / width).astype(np.float32)
    return features + 0.5 * rng.normal(size=width).astype(np.float32), labels


def losses(
    weights: np.ndarray, features: np.ndarray, labels: np.ndarray, cost: float
) -> np.ndarray:
    """Returns the loss of each class, float64 [classes]."""
    signs = np.where(labels[:, None] == np.arange(weights.shape[1]), 1, -1)
    violations = np.maximum(0, 1 - signs * svm.decide(weights.astype(np.float64), features))
    return 0.5 * np.square(weights).sum(0) + cost * np.square(violations).sum(0)


def timed(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Returns the result of a function, its wall-clock seconds and its CPU seconds."""
    clock, cores = time.perf_counter(), time.process_time()
    result = function()
    clock, cores = time.perf_counter() - clock, time.process_time() - cores
    return result, {"seconds": round(clock, 2), "core_seconds": round(cores, 2)}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs both solvers and prints the line."""
    parser = command_parser("benchmarks.svm", __doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--cost", type=float, default=0.01)
    args = parser.parse_args(argv)
    features, labels = random_features(args.samples + _HELD_OUT, args.width, args.classes)
    (x, y), (test_x, test_y) = (
        (features[part], labels[part]) for part in (slice(args.samples), slice(args.samples, None))
    )
    mesh, settings = mesh_lib.make_mesh(MeshConfig()), SvmConfig(costs=(args.cost,))

    def fit_ours() -> np.ndarray:
        return svm.fit_path(x, y, args.classes, settings, mesh)[args.cost]

    _, compiling = timed(fit_ours)
    weights, ours = timed(fit_ours)
    model, theirs = timed(lambda: LinearSVC(C=args.cost, dual=False, max_iter=1000).fit(x, y))
    reference = np.concatenate([model.coef_, model.intercept_[:, None]], axis=1).T
    expected, found = (losses(w, x, y, args.cost) for w in (reference, weights))
    scores = {"ours": svm.decide(weights, test_x), "scikit_learn": model.decision_function(test_x)}
    for solver, taken in (("ours", ours), ("scikit_learn", theirs)):
        taken["top1"] = top_k(scores[solver], test_y, 1)
    same = scores["ours"].argmax(1) == scores["scikit_learn"].argmax(1)
    result = {
        **vars(args),
        "devices": mesh.devices.size,
        "ours": {**ours, "seconds_with_compiling": compiling["seconds"]},
        "scikit_learn": theirs,
        "loss_difference": float(((found - expected) / expected).max()),
        "same_decision": float(same.mean()),
    }
    terminal.print_text(json.dumps(result))


if __name__ == "__main__":
    main()
