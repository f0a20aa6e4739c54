"""Metrics, in percent. Ties never help: a constant score is no better than chance or worse."""

from __future__ import annotations

import numpy as np


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """The share of samples whose class is among the k with the highest scores.

    Args:
      scores: float [samples, classes].
      labels: int [samples].
      k: at least 1. Of equal scores, those of other classes count as higher.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    ahead = (scores >= own).sum(axis=1) - 1
    return 100 * float((ahead < k).mean())


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Area under one class's precision-recall curve, as a step function; not in percent.

    As scikit-learn's `average_precision_score`: equal scores are one threshold.

    Args:
      scores: float [samples].
      targets: bool or 0 and 1 [samples], with at least one positive.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(targets[order] > 0)
    last_of_threshold = np.append(np.diff(scores[order]) != 0, True)
    hits, taken = hits[last_of_threshold], np.flatnonzero(last_of_threshold) + 1
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float(np.sum(gained * hits / taken))


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean of `average_precision` over the classes that have a positive.

    Args:
      scores: float [samples, classes].
      targets: 0 and 1 [samples, classes].
    """
    present = np.flatnonzero(targets.any(axis=0))
    found = [average_precision(scores[:, c], targets[:, c]) for c in present]
    return 100 * float(np.mean(found))


def recall_at_k(similarity: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """The share of queries with something relevant among their k most similar candidates.

    Args:
      similarity: float [queries, candidates].
      relevant: bool [queries, candidates].
      k: at least 1. Of equal similarities, irrelevant candidates count as higher.
    """
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    ahead = ((similarity >= best) & ~relevant).sum(axis=1)
    return 100 * float((relevant.any(axis=1) & (ahead < k)).mean())
