"""k-nearest-neighbors classification with DINO's weights."""

from __future__ import annotations

import numpy as np

_CHUNK = 1024  # queries at a time, to limit the memory of similarities
_SMALLEST_NORM = 1e-12


def unit(features: np.ndarray) -> np.ndarray:
    """Scales vectors, float [..., width], along the last axis to length 1."""
    norm = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(norm, _SMALLEST_NORM)


def class_scores(
    bank: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    classes: int,
    k: int,
    temperature: float,
) -> np.ndarray:
    """Returns the sum of the neighbors' weights for each class, float32 [queries, classes].

    Args:
      bank: labeled features of length 1, float32 [samples, width].
      labels: their classes, int [samples].
      queries: features of length 1, float32 [queries, width].
      classes: number of classes.
      k: number of neighbors; at most `samples` are used.
      temperature: a neighbor's weight is exp((cosine - 1) / temperature).
    """
    k = min(k, len(bank))
    scores = np.zeros((len(queries), classes), np.float32)
    for start in range(0, len(queries), _CHUNK):
        similarity = queries[start : start + _CHUNK] @ bank.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        cosine = np.take_along_axis(similarity, nearest, axis=1)
        rows = np.arange(start, start + len(similarity))[:, None]
        np.add.at(scores, (rows, labels[nearest]), np.exp((cosine - 1) / temperature))
    return scores
