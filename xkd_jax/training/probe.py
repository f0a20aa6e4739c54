"""Probes: linear and k-nearest-neighbors classifiers on features of the frozen encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from data_pipelines.errors import UserError
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.read.read_ahead import Batch
from data_pipelines.terminal import count
from xkd_jax.augment import augment
from xkd_jax.config.architecture import Architecture
from xkd_jax.method.train_state import module_of
from xkd_jax.metrics.knn import class_scores, unit
from xkd_jax.metrics.scores import top_k
from xkd_jax.networks.encoder import pool
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.student import Teacher
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.mesh import on_mesh, put_batch
from xkd_jax.parallel.processes import print_on_main

Features = dict[str, np.ndarray]
_TEMPERATURE = 0.07  # divisor of the neighbors' cosines, as in DINO


class ProbeInterrupted(Exception):
    """A probe has no result because the run is to stop; raised on all processes."""


@dataclasses.dataclass(frozen=True)
class Probes:
    """The probes of a run.

    Attributes:
      k: number of nearest neighbors.
      splits: names of the splits of the training and of the test records, for messages.
      encode: the function of `feature_function`.
      batch_sharding: sharding of every array of a batch.
      batch_size: rows of a batch, over all processes.
      classes: number of classes of the data set.
      batches: returns one pass over the training records, and one over the test records.
    """

    k: int
    splits: tuple[str, str]
    encode: Callable[[Tree, Batch], dict[str, jax.Array]]
    batch_sharding: NamedSharding
    batch_size: int
    classes: int
    batches: Callable[[], tuple[Iterable[Batch], Iterable[Batch]]]

    def linear(self, parameters: dict[str, Tree]) -> dict[str, float]:
        """Extracts features and returns the accuracies of `linear_probe`.

        Args:
          parameters: as in `extract_features`.

        Raises:
          UserError: no record of a split has a class.
        """
        return linear_probe(*self._features(parameters))

    def knn(
        self, parameters: dict[str, Tree], interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """Extracts features and returns the accuracies of `knn_probe`.

        Args:
          parameters: as in `extract_features`.
          interrupted: whether the run is to stop; called before each batch.

        Raises:
          UserError: no record of a split has a class.
          ProbeInterrupted: the run is to stop.
        """
        train, test = self._features(parameters, interrupted)
        return knn_probe(train, test, self.classes, self.k)

    def _features(
        self, parameters: dict[str, Tree], interrupted: Callable[[], bool] = lambda: False
    ) -> tuple[Features, Features]:
        train, test = (
            labeled(
                extract_features(
                    self.encode,
                    parameters,
                    _uninterrupted(batches, interrupted),
                    self.batch_sharding,
                    self.batch_size,
                ),
                split,
            )
            for batches, split in zip(self.batches(), self.splits, strict=True)
        )
        return train, test


def _uninterrupted(batches: Iterable[Batch], interrupted: Callable[[], bool]) -> Iterator[Batch]:
    for batch in batches:
        if interrupted():
            raise ProbeInterrupted
        yield batch


def extract_features(
    encode: Callable[[Tree, Batch], dict[str, jax.Array]],
    parameters: dict[str, Tree],
    batches: Iterable[Batch],
    sharding: NamedSharding,
    batch_size: int,
) -> Features:
    """Computes pooled features of all batches, for each encoder.

    Args:
      encode: the function of `feature_function`.
      parameters: {role: parameters of encoders and heads, in the structure of `Teacher`}.
      batches: this process's rows of evaluation batches; rows whose `valid` is False are dropped.
      sharding: sharding of every array of a batch.
      batch_size: rows of a batch, over all processes.

    Returns:
      {"{role} {modality}": float32 [records, width], "label": int32 [records]}: on every process,
      the records of all processes.
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
    """Leaves out records without a class (label -1), and prints their number.

    Args:
      found: the result of `extract_features`.
      split: name of the split, for messages.

    Raises:
      UserError: no record has a class.
    """
    has_class = found["label"] >= 0
    lacking = len(has_class) - int(has_class.sum())
    if lacking == len(has_class):
        raise UserError(
            f"None of the {lacking} records of split {split} that probes use has a class: give"
            " another --config.probe.split, or --config.probe.enabled=False and"
            " --config.probe.knn_every=0."
        )
    if lacking:
        print_on_main(
            f"probe     {lacking} of {count(len(has_class), f'{split} record')} without a class:"
            " left out"
        )
        return {name: rows[has_class] for name, rows in found.items()}
    return found


def feature_function(
    architecture: Architecture, config: LoaderConfig, mesh: Mesh | AbstractMesh
) -> Callable[[Tree, Batch], dict[str, jax.Array]]:
    """Returns the jitted (parameters, batch) -> {modality: float32 [batch, width]}.

    It pools the encoder's tokens of each global view.

    Args:
      architecture: of the networks.
      config: of the views.
      mesh: of all devices.
    """

    def encode(params: Tree, batch: Batch) -> dict[str, jax.Array]:
        network, views = module_of(Teacher, params, architecture), augment(config, batch)
        with matmul_precision(architecture.model):
            return {
                m: pool(network.encoders(m, views[m]["global"])) for m in architecture.modalities
            }

    return jax.jit(on_mesh(encode, mesh))


def linear_probe(train: Features, test: Features) -> dict[str, float]:
    """Top-1 accuracy in percent of a logistic regression, {"{role} {modality}": accuracy}.

    Features are standardized by the mean and deviation of the training records.

    Args:
      train: features and labels that the classifiers are fitted to, the result of `labeled`.
      test: those that are scored.
    """
    return {
        name: 100
        * float(_classifier().fit(train[name], train["label"]).score(test[name], test["label"]))
        for name in train
        if name != "label"
    }


def knn_probe(train: Features, test: Features, classes: int, k: int) -> dict[str, float]:
    """Top-1 accuracy in percent of k nearest neighbors, {"{role} {modality}": accuracy}.

    Args:
      train: features and labels of the neighbors, the result of `labeled`.
      test: those that are scored.
      classes: number of classes of the data set; `train` need not have all of them.
      k: number of neighbors.
    """

    def score(name: str) -> float:
        bank, queries = (unit(found[name]) for found in (train, test))
        scores = class_scores(bank, train["label"], queries, classes, k, _TEMPERATURE)
        return top_k(scores, test["label"], 1)

    return {name: score(name) for name in train if name != "label"}


def _classifier() -> Any:
    # Imported here because scikit-learn takes seconds to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
