"""Probes: what a linear classifier, or a vote of neighbors, can read off the frozen encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES
from data_pipelines.read.read_ahead import Batch
from xkd_jax.augment import augment
from xkd_jax.config.pretraining import Config
from xkd_jax.method.train_state import module_of
from xkd_jax.metrics.knn import unit, vote
from xkd_jax.metrics.scores import top_k
from xkd_jax.networks.encoder import pool
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.student import Teacher
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.mesh import put_batch
from xkd_jax.parallel.processes import announce

Features = dict[str, np.ndarray]
_TEMPERATURE = 0.07  # of the neighbors' weights, as in DINO


@dataclasses.dataclass(frozen=True)
class Probes:
    """The probes of a run.

    Attributes:
      config: of the run.
      encode: `encoder`'s function.
      batch_sharding: of a batch.
      classes: of the data set.
      batches: gives one pass over the records that classifiers learn from, and one over those
        that they are scored on.
    """

    config: Config
    encode: Callable[[Tree, Batch], dict[str, jax.Array]]
    batch_sharding: NamedSharding
    classes: int
    batches: Callable[[], tuple[Iterable[Batch], Iterable[Batch]]]

    def linear(self, parameters: dict[str, Tree]) -> dict[str, float]:
        """See `linear_probe` and `labeled`; `parameters` are those of `extract_features`."""
        return linear_probe(*self._features(parameters))

    def knn(self, parameters: dict[str, Tree]) -> dict[str, float]:
        """See `knn_probe` and `labeled`; `parameters` as above."""
        train, test = self._features(parameters)
        return knn_probe(train, test, self.classes, self.config.probe.k)

    def _features(self, parameters: dict[str, Tree]) -> tuple[Features, Features]:
        config = self.config
        splits = (config.data.split, config.probe.split)
        train, test = (
            labeled(
                extract_features(
                    self.encode, parameters, batches, self.batch_sharding, config.batch_size
                ),
                split,
            )
            for batches, split in zip(self.batches(), splits, strict=True)
        )
        return train, test


def extract_features(
    encode: Callable[[Tree, Batch], dict[str, jax.Array]],
    parameters: dict[str, Tree],
    batches: Iterable[Batch],
    sharding: NamedSharding,
    batch_size: int,
) -> Features:
    """Pools every encoder's tokens over all batches of an evaluation pipeline.

    Args:
      encode: `encoder`'s function; compiled once, it serves every call.
      parameters: {role: encoder and head parameters in the shape of `Teacher`}.
      batches: this process's rows of evaluation batches; rows whose `valid` is False are dropped.
      sharding: of a batch.
      batch_size: rows of a batch on all processes.

    Returns:
      {"{role} {modality}": float32 [records, width], "label": int32 [records]}, of all processes'
      records on each of them.
    """
    collected: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        placed = put_batch(batch, sharding, batch_size)
        found = {
            f"{role} {name}": value
            for role, tree in parameters.items()
            for name, value in encode(tree, placed).items()
        }
        rows = {**found, "label": placed["label"], "valid": placed["valid"]}
        rows = multihost_utils.process_allgather(rows, tiled=True)
        valid = rows.pop("valid")
        for name, value in rows.items():
            collected.setdefault(name, []).append(value[valid])
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def labeled(found: Features, split: str) -> Features:
    """Leaves out records without a class (label -1), and says how many.

    Args:
      found: what `extract_features` returns.
      split: its name, for the message.

    Raises:
      UserError: no record has one.
    """
    has_class = found["label"] >= 0
    lacking = len(has_class) - int(has_class.sum())
    if lacking == len(has_class):
        raise UserError(
            f"None of the {lacking} records that probes read of the split {split} has a class: give"
            " another --config.probe.split, or --config.probe.enabled=False and"
            " --config.probe.knn_every=0."
        )
    if lacking:
        announce(f"probe     {lacking} of {len(has_class)} {split} records have no class: left out")
        return {name: rows[has_class] for name, rows in found.items()}
    return found


def encoder(config: Config) -> Callable[[Tree, Batch], dict[str, jax.Array]]:
    """Returns the jitted (parameters, batch) -> {modality: float32 [batch, width]}.

    The features are those of the global views.
    """

    def encode(params: Tree, batch: Batch) -> dict[str, jax.Array]:
        network, views = module_of(Teacher, params, config), augment(config, batch)
        with matmul_precision(config.model):
            return {m: pool(network.encoders(m, views[m]["global"])) for m in MODALITIES}

    return jax.jit(encode)


def linear_probe(train: Features, test: Features) -> dict[str, float]:
    """Top-1 accuracy in percent of a logistic regression on each kind of features.

    Features are standardized by the training split. `train` and `test` are what `labeled` returns.
    """
    return {
        name: 100
        * float(_classifier().fit(train[name], train["label"]).score(test[name], test["label"]))
        for name in train
        if name != "label"
    }


def knn_probe(train: Features, test: Features, classes: int, k: int) -> dict[str, float]:
    """Top-1 accuracy in percent of a vote of the `k` nearest by cosine, for each kind.

    `train` and `test` are what `labeled` returns; `classes` is the number of those of the data set,
    of which the training records need not have all.
    """

    def score(name: str) -> float:
        bank, queries = (unit(found[name]) for found in (train, test))
        votes = vote(bank, train["label"], queries, classes, k, _TEMPERATURE)
        return top_k(votes, test["label"], 1)

    return {name: score(name) for name in train if name != "label"}


def _classifier() -> Any:
    # scikit-learn takes seconds to start, and a run that begins has no probe yet.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
