"""Metrics, in percent.

Of equal scores, those of wrong classes or candidates rank higher, so that a constant score is no
better than chance. NaN of a right one ranks below all others, NaN of a wrong one above.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data_pipelines.errors import UserError


def check_finite(
    values: np.ndarray, what: str, row_name: Callable[[int], str], remedy: str
) -> None:
    """Checks that no value is NaN or infinite.

    Args:
      values: float [rows, ...].
      what: subject of the message, in the plural, such as "The SVM's scores".
      row_name: maps the index of a row to its name in the message.
      remedy: instruction at the end of the message.

    Raises:
      UserError: a value is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(bad):
        raise UserError(
            f"{what} are not finite for {len(bad)} of {len(values)} (first:"
            f" {row_name(int(bad[0]))}): {remedy}."
        )


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Percentage of samples whose class is among the k with the highest scores.

    Args:
      scores: float [samples, classes].
      labels: int [samples].
      k: at least 1.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    ahead = (~(scores < own)).sum(axis=1) - 1
    return 100 * float((ahead < k).mean())


def top_5(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """`top_k` of the five highest scores; None with five classes or fewer, where it is always 100.

    Args:
      scores: float [samples, classes].
      labels: int [samples].
    """
    return top_k(scores, labels, 5) if scores.shape[1] > 5 else None


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Area under one class's precision-recall curve, as a step function; not in percent.

    As scikit-learn's `average_precision_score`: equal scores are one threshold.

    Args:
      scores: float [samples].
      targets: bool or 0 and 1 [samples], with at least one positive.
    """
    worst = np.where(targets > 0, -np.inf, np.inf)
    scores = np.where(np.isnan(scores), worst, scores)
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(targets[order] > 0), scores[order]
    last_of_threshold = np.append(ranked[1:] != ranked[:-1], True)
    hits, taken = hits[last_of_threshold], np.flatnonzero(last_of_threshold) + 1
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float(np.sum(gained * hits / taken))


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean of `average_precision` over the classes that have a positive.

    Args:
      scores: float [samples, classes].
      targets: 0 and 1 [samples, classes].

    Raises:
      UserError: no sample has a class.
    """
    present = np.flatnonzero(targets.any(axis=0))
    if not len(present):
        raise UserError(
            f"None of the {len(targets)} test records has a class: build the data set again from"
            " the benchmark's official lists, or give another --config.data.test_split."
        )
    found = [average_precision(scores[:, c], targets[:, c]) for c in present]
    return 100 * float(np.mean(found))


def ranks(similarity: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Rank of each query's most similar relevant candidate, from 0, int64 [queries].

    It is the number of irrelevant candidates that are at least as similar; all candidates, if none
    is relevant. Recall at k counts the queries whose rank is below k.

    Args:
      similarity: float [queries, candidates].
      relevant: bool [queries, candidates].
    """
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    return (~(similarity < best) & ~relevant).sum(axis=1)
