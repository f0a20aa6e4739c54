"""Classification by nearest neighbors, as DINO does it."""

from __future__ import annotations

import numpy as np

_CHUNK = 1024  # queries at a time, to bound the memory of their similarities
_SMALLEST_NORM = 1e-12


def unit(features: np.ndarray) -> np.ndarray:
    """Scales vectors, float [..., width], along the last axis to length 1."""
    norm = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(norm, _SMALLEST_NORM)


def vote(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    classes: int,
    k: int,
    temperature: float,
) -> np.ndarray:
    """Returns the votes for each class, float32 [queries, classes].

    Args:
      bank: known features of length 1, float32 [samples, width].
      labels: their classes, int [samples].
      queries: features of length 1, float32 [queries, width].
      classes: their number.
      k: neighbors that vote (all, where there are fewer).
      temperature: a neighbor's weight is exp((cosine - 1) / temperature).
    """
    k = min(k, len(bank))
    votes = np.zeros((len(queries), classes), np.float32)
    for start in range(0, len(queries), _CHUNK):
        similarity = queries[start : start + _CHUNK] @ bank.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        cosine = np.take_along_axis(similarity, nearest, axis=1)
        rows = np.arange(start, start + len(similarity))[:, None]
        np.add.at(votes, (rows, labels[nearest]), np.exp((cosine - 1) / temperature))
    return votes
