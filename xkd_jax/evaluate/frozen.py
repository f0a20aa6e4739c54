"""Protocols on frozen features: linear SVM, k nearest neighbors, cross-modal retrieval.

Each returns the metrics of one fold in percent (`fold_scores`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jax.sharding import Mesh

from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.directions import directions
from xkd_jax.config.evaluation import KnnConfig, SvmConfig
from xkd_jax.evaluate import svm
from xkd_jax.evaluate.feature_store import FeatureSet
from xkd_jax.evaluate.fold_scores import ClassScores, RetrievalScores, SvmScores
from xkd_jax.evaluate.splits import some_of_each_class
from xkd_jax.metrics.knn import class_scores, unit
from xkd_jax.metrics.scores import ranks, top_5, top_k
from xkd_jax.parallel.processes import print_on_main

_RECALLS = (1, 5, 10)
QUERIES_AT_ONCE = 1024  # to limit the memory of similarities


def joined(found: FeatureSet, records: np.ndarray) -> np.ndarray:
    """Returns the features of records, float32 [records, clips, crops, width].

    Features of two modalities are scaled to length 1 and concatenated (those of a spectrogram are
    repeated for each crop of the frames).

    Args:
      found: a set of features.
      records: indices in the split, int64 [records].
    """
    parts = [np.asarray(array[found.rows_of(records)]) for array in found.features.values()]
    if len(parts) == 1:
        return parts[0]
    crops = max(part.shape[2] for part in parts)
    parts = [np.repeat(unit(part), crops // part.shape[2], axis=2) for part in parts]
    return np.concatenate(parts, axis=-1)


class SvmProtocol:
    """Linear SVMs of every cost, with decision values averaged over a record's clips and crops.

    The published protocol reports the cost that is best on the test records. The result also has
    the cost that is best on held-out training records, which are left out of that fit.
    """

    def __init__(
        self,
        settings: SvmConfig,
        classes: int,
        mesh: Mesh,
        *,
        train_fraction: float,
        held_out: float,
        seed: int,
    ):
        """Stores the settings.

        Args:
          settings: costs and solver.
          classes: number of classes.
          mesh: the mesh of devices.
          train_fraction: of each class's training records that are used.
          held_out: fraction of them that chooses a cost.
          seed: of both choices.
        """
        self._settings, self._classes, self._mesh = settings, classes, mesh
        self._train_fraction, self._held_out, self._seed = train_fraction, held_out, seed

    def __call__(
        self,
        train: FeatureSet,
        test: FeatureSet,
        train_records: np.ndarray,
        test_records: np.ndarray,
    ) -> SvmScores:
        """Fits the SVMs of each cost and scores them on the test records.

        Args:
          train: features that the SVMs are fitted to.
          test: features that are classified.
          train_records: indices in the training split, int64 [n].
          test_records: indices in the test split, int64 [m].
        """
        rng = np.random.default_rng(self._seed)
        features, labels = _of(train, train_records)
        used, _ = some_of_each_class(labels, self._train_fraction, rng)
        features, labels = features[used], labels[used]
        fitted = self._fit(features, labels)
        test_features, test_labels = _of(test, test_records)
        scores = {cost: mean_scores(weights, test_features) for cost, weights in fitted.items()}
        top1 = {cost: top_k(scores[cost], test_labels, 1) for cost in scores}
        cost = max(top1, key=lambda c: top1[c])
        _warn_at_end_of_grid(top1, cost)
        result = SvmScores(
            value=top1[cost],
            top5=top_5(scores[cost], test_labels),
            cost=cost,
            top1_by_cost={str(c): value for c, value in top1.items()},
            train_records=len(used),
            test_records=len(test_labels),
        )
        held_out, fit = some_of_each_class(labels, self._held_out, rng)
        if len(np.unique(labels[fit])) < len(np.unique(labels)):
            return result  # a class has one record, which can't be held out
        chosen = self._choose(features, labels, fit, held_out)
        return dataclasses.replace(result, top1_held_out_cost=top1[chosen], held_out_cost=chosen)

    def _choose(
        self, features: np.ndarray, labels: np.ndarray, fit: np.ndarray, held_out: np.ndarray
    ) -> float:
        fitted = self._fit(features[fit], labels[fit])
        top1 = {
            cost: top_k(mean_scores(weights, features[held_out]), labels[held_out], 1)
            for cost, weights in fitted.items()
        }
        return max(top1, key=lambda c: top1[c])

    def _fit(self, features: np.ndarray, labels: np.ndarray) -> dict[float, np.ndarray]:
        per_record = features.shape[1] * features.shape[2]
        samples = features.reshape(-1, features.shape[-1])
        return svm.fit_path(
            samples, np.repeat(labels, per_record), self._classes, self._settings, self._mesh
        )


def _warn_at_end_of_grid(top1: dict[float, float], best: float) -> None:
    """Prints a note if a cost outside of the grid may be better."""
    others = [value for cost, value in top1.items() if cost != best]
    if others and best in (min(top1), max(top1)) and max(others) < top1[best]:
        end, more = ("largest", "larger") if best == max(top1) else ("smallest", "smaller")
        print_on_main(f"svm       cost {best:g} is best, the {end} of svm.costs: add {more} ones")


def knn(
    settings: KnnConfig,
    classes: int,
    train: FeatureSet,
    test: FeatureSet,
    train_records: np.ndarray,
    test_records: np.ndarray,
    *,
    train_fraction: float,
    seed: int,
) -> ClassScores:
    """Returns the metrics of kNN on the mean over a record's clips.

    Args:
      settings: number of neighbors and their weights.
      classes: number of classes.
      train: features of the neighbors.
      test: features that are classified.
      train_records: indices in the training split, int64 [n].
      test_records: indices in the test split, int64 [m].
      train_fraction: of each class's training records that are used.
      seed: of their choice.
    """
    features, labels = _of(train, train_records)
    used, _ = some_of_each_class(labels, train_fraction, np.random.default_rng(seed))
    test_features, test_labels = _of(test, test_records)
    bank, queries = (unit(f.mean(axis=(1, 2))) for f in (features[used], test_features))
    scores = class_scores(bank, labels[used], queries, classes, settings.k, settings.temperature)
    return ClassScores(
        value=top_k(scores, test_labels, 1),
        top5=top_5(scores, test_labels),
        train_records=len(used),
        test_records=len(test_labels),
    )


def retrieve(test: FeatureSet, test_records: np.ndarray) -> RetrievalScores:
    """Returns recall at 1, 5 and 10 of retrieval from video to audio and from audio to video.

    `same_class` recalls count any record of the query's class as relevant. `value` is the mean of
    recall at 1 over both directions.

    Args:
      test: features of both modalities.
      test_records: indices in the test split, int64 [n].
    """
    rows = test.rows_of(test_records)
    clips = {m: unit(np.asarray(test.features[m][rows]).mean(axis=(1, 2))) for m in MODALITIES}
    target = test.target[rows]
    recalls: dict[str, float] = {}
    pairs = directions(MODALITIES)  # from the query's modality to the searched one
    for query, other in pairs:
        own, shared = _ranks(clips[query], clips[other], target)
        for k in _RECALLS:
            recalls[f"{query}_to_{other}_recall_{k}"] = 100 * float((own < k).mean())
            recalls[f"{query}_to_{other}_same_class_recall_{k}"] = 100 * float((shared < k).mean())
    value = np.mean([recalls[f"{pair.name}_recall_1"] for pair in pairs])
    return RetrievalScores(value=float(value), test_records=len(rows), recalls=recalls)


def _ranks(
    queries: np.ndarray, candidates: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of each query's own record, and of the best of its class, int64 [records] each."""
    own, shared = [], []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        block = np.arange(start, min(start + QUERIES_AT_ONCE, len(queries)))
        similarity = queries[block] @ candidates.T
        itself = block[:, None] == np.arange(len(candidates))
        own.append(ranks(similarity, itself))
        shared.append(ranks(similarity, itself | _same_class(target, block)))
    return np.concatenate(own), np.concatenate(shared)


def _same_class(target: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Whether the block's records share a class with each record, bool [block, records]."""
    if target.ndim == 2:
        return target[block].astype(np.int64) @ target.T > 0
    return (target[block, None] == target) & (target[block, None] >= 0)


def _of(found: FeatureSet, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return joined(found, records), found.target[found.rows_of(records)]


def mean_scores(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns decision values averaged over clips and crops, float32 [records, classes].

    Args:
      weights: the result of `svm.fit_path` for one cost.
      features: float32 [records, clips, crops, width].
    """
    # the mean of a linear function is its value at the mean
    return svm.decide(weights, features.mean(axis=(1, 2)))
