"""Times the linear SVM against scikit-learn's, on features like an encoder's.

    python -m benchmarks.svm [--samples=100000] [--width=768] [--classes=10] [--cost=0.01]

Prints one line of JSON: seconds of ours for all classes (its first run compiles, so the second
counts), of scikit-learn's LinearSVC (the same problem; its primal solver, which is the faster one
for so many samples), the largest difference between their losses relative to scikit-learn's, and
the share of the samples for which both decide for the same class.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np
from sklearn.svm import LinearSVC

from xkd_jax import sharding
from xkd_jax.config import MeshConfig
from xkd_jax.evaluate import svm
from xkd_jax.evaluate.config import SvmConfig


def random_features(samples: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns features of overlapping classes: a common direction, and axes of falling strength."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=samples)
    centres = 0.25 * rng.normal(size=(classes, width)).astype(np.float32)
    features = rng.normal(size=(samples, width)).astype(np.float32)
    features += centres[labels]
    features *= 3 * np.exp(-4 * np.arange(width) / width).astype(np.float32)
    return features + 0.5 * rng.normal(size=width).astype(np.float32), labels


def losses(
    weights: np.ndarray, features: np.ndarray, labels: np.ndarray, cost: float
) -> np.ndarray:
    """Returns the loss of each class, float64 [classes]."""
    signs = np.where(labels[:, None] == np.arange(weights.shape[1]), 1, -1)
    violations = np.maximum(0, 1 - signs * svm.decide(weights.astype(np.float64), features))
    return 0.5 * np.square(weights).sum(0) + cost * np.square(violations).sum(0)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs both solvers and prints the line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.svm", allow_abbrev=False)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--cost", type=float, default=0.01)
    args = parser.parse_args(argv)
    features, labels = random_features(args.samples, args.width, args.classes)
    mesh, settings = sharding.make_mesh(MeshConfig()), SvmConfig(costs=(args.cost,))
    ours = []
    for _ in range(2):
        start = time.perf_counter()
        weights = svm.fit_path(features, labels, args.classes, settings, mesh)[args.cost]
        ours.append(time.perf_counter() - start)
    start = time.perf_counter()
    model = LinearSVC(C=args.cost, dual=False, max_iter=1000).fit(features, labels)
    theirs = time.perf_counter() - start
    reference = np.concatenate([model.coef_, model.intercept_[:, None]], axis=1).T
    expected = losses(reference, features, labels, args.cost)
    found = losses(weights, features, labels, args.cost)
    same = svm.decide(weights, features).argmax(1) == model.decision_function(features).argmax(1)
    print(
        json.dumps(
            {
                **vars(args),
                "devices": mesh.devices.size,
                "seconds": round(ours[1], 2),
                "seconds_with_compiling": round(ours[0], 2),
                "scikit_learn_seconds": round(theirs, 2),
                "loss_difference": float(((found - expected) / expected).max()),
                "same_decision": float(same.mean()),
            }
        )
    )


if __name__ == "__main__":
    main()
