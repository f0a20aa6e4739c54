"""Nearest clips by cosine, of the same modality and across modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.config.directions import directions
from xkd_jax.metrics.knn import unit
from xkd_jax.report.encoded_clips import Split

NEAREST = 5


class Nearest(NamedTuple):
    """The nearest clips of every query.

    Attributes:
      query: modality of the queries.
      found: modality of the clips that are searched.
      bank: the clips that are searched.
      order: positions in the bank, nearest first, int64 [queries, up to 5].
      cosines: of query and found clip, float32, in the shape of `order`.
      same: share of found clips with a class of the query; None without classes.
      chance: share for clips taken at random.
    """

    query: Modality
    found: Modality
    bank: Split
    order: np.ndarray
    cosines: np.ndarray
    same: float | None
    chance: float | None


def searches(queries: Split, bank: Split) -> list[Nearest]:
    """Returns k-nearest-neighbor searches of each modality, then searches across modalities.

    Within a modality the encoders' features are compared, and queries are searched in the bank.
    Across modalities the heads' outputs are compared, and the queries' other modality is searched.

    Args:
      queries: clips to search for.
      bank: clips that are searched, of another split or the same.
    """
    found = []
    present = [m for m in MODALITIES if m in queries.features]
    itself = queries.records[:, None] == bank.records if queries.name == bank.name else None
    for m in present:
        rows, searched = queries.features[m], bank.features[m]
        found.append(_search(queries, bank, (m, m), rows, searched, itself))
    for pair in directions(present):
        asked, other = queries.outputs[pair.teacher], queries.outputs[pair.student]
        found.append(_search(queries, queries, pair, asked, other, None))
    return found


def _search(
    queries: Split,
    bank: Split,
    modalities: tuple[Modality, Modality],
    asked: np.ndarray,
    searched: np.ndarray,
    excluded: np.ndarray | None,
) -> Nearest:
    cosines = unit(asked) @ unit(searched).T
    if excluded is not None:
        cosines = np.where(excluded, -np.inf, cosines)
    count = min(NEAREST, len(searched) - (excluded is not None))
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    alike = shares(queries.classes, bank.classes)
    labeled = np.array([bool(c) for c in queries.classes])
    same = chance = None
    if labeled.any() and count:
        same = float(np.take_along_axis(alike, order, 1)[labeled].mean())
        chance = float(alike[labeled].mean())
    return Nearest(*modalities, bank, order, np.take_along_axis(cosines, order, 1), same, chance)


def shares(queries: Sequence[frozenset[int]], others: Sequence[frozenset[int]]) -> np.ndarray:
    """Returns whether each query has a class in common with each other clip, bool [n, m].

    Args:
      queries: classes of n clips.
      others: classes of m clips.
    """
    return np.array([[bool(a & b) for b in others] for a in queries])


def varied(split: Split, count: int) -> list[int]:
    """Returns positions of up to `count` clips, of as many classes as possible."""
    seen: dict[frozenset[int], int] = {}
    turns = []
    for position, classes in enumerate(split.classes):
        turns.append((seen.get(classes, 0), position))
        seen[classes] = seen.get(classes, 0) + 1
    return [position for _, position in sorted(turns)[:count]]
