"""A run's student on some of its clips: features, reconstructions and attention."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import Any

import jax
import numpy as np

from data_pipelines.activity import Activity
from data_pipelines.loader_config import LoaderConfig, Modality
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from data_pipelines.read.read_ahead import Batch
from xkd_jax.augment import augment
from xkd_jax.config.architecture import Architecture, ModelConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.inference.run_checkpoint import RunCheckpoint
from xkd_jax.method.train_state import module_of
from xkd_jax.networks.encoder import pool
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.student import Student
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training.data.run_data import folder_of
from xkd_jax.training.pictures.gallery import seen_function

_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Split:
    """Records of a split, spread evenly over it, and the student's features of them.

    Attributes:
      name: of the split.
      dataset: all of its records.
      records: indices of those that were encoded, int64 [n].
      classes: of each record; several in a multi-label data set, none without labels.
      features: {modality: pooled features of the encoder, float32 [n, width]}.
      outputs: {modality: outputs of the head, the space of distillation, float32 [n, outputs]}.
    """

    name: str
    dataset: Dataset
    records: np.ndarray
    classes: list[frozenset[int]]
    features: dict[Modality, np.ndarray]
    outputs: dict[Modality, np.ndarray]


class StudentOnData:
    """The student of a run's newest checkpoint, and its data; on one device."""

    def __init__(self, checkpoint: RunCheckpoint, folder: PurePath):
        """Reads the parameters.

        Args:
          checkpoint: of the run.
          folder: of the run.

        Raises:
          UserError: the checkpoint can't be used.
        """
        config = checkpoint.config
        directory = folder_of(config.data, folder)
        # threads suffice for so few clips: processes take seconds to start
        data = dataclasses.replace(config.data, dir=directory, workers=0)
        self.config = dataclasses.replace(config, data=data, batch_size=_BATCH)
        device = jax.local_devices()[0]
        here = jax.sharding.SingleDeviceSharding(device)
        self._params = checkpoint.tree("student", lambda cls, architecture: here)
        self._mesh = mesh_lib.make_mesh(MeshConfig(), [device])
        self._encode = _encode_function(self.config, self.config.model, self._mesh)

    def open(self, split: str) -> Dataset:
        """Opens a split of the run's data.

        Raises:
          UserError: it can't be read.
        """
        return open_dataset(self.config, self.config.data.dir, split, fixed=True)

    def encode(self, name: str, dataset: Dataset, most: int) -> Split:
        """Encodes the central clips of at most so many records.

        Args:
          name: of the split.
          dataset: its records.
          most: number of records, spread evenly.

        Raises:
          UserError: a record is damaged.
        """
        records = np.unique(np.linspace(0, len(dataset) - 1, most).round().astype(np.int64))
        classes: list[frozenset[int]] = []
        parts: list[Any] = []
        with Activity("encoding clips", total=len(records)) as shown:
            for batch in self._batches(dataset, records):
                rows = int(batch["valid"].sum())
                found = jax.device_get(self._encode(self._params, self._placed(batch)))
                parts.append(jax.tree.map(lambda a, n=rows: a[:n], found))
                classes += _classes(batch)[:rows]
                shown.reached(len(classes))
        joined = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
        return Split(name, dataset, records, classes, joined[0], joined[1])

    def views(
        self, dataset: Dataset, records: Iterable[int]
    ) -> Iterator[tuple[int, dict[Modality, Any]]]:
        """Yields each record with {modality: its normalized global view, float32}, in order.

        Args:
          dataset: the split.
          records: indices in it.
        """
        wanted = np.array(sorted(set(records)), np.int64)
        for batch in self._batches(dataset, wanted):
            views = jax.device_get(_augmented(self.config)(self._views(batch)))
            for row in range(int(batch["valid"].sum())):
                yield int(batch["record"][row]), {m: v["global"][row] for m, v in views.items()}

    def see(self, dataset: Dataset, records: np.ndarray) -> dict[Modality, Any]:
        """Returns {modality: `Seen` of at most 16 records, arrays of NumPy [records, ...]}."""
        (batch,) = self._batches(dataset, records)
        model, weights = self.config.model, self.config.loss.weights
        see = seen_function(self.config, model, weights, self._mesh, len(records))
        return jax.device_get(see(self._params, self._placed(batch)))

    def _batches(self, dataset: Dataset, records: np.ndarray) -> Iterable[Batch]:
        return pipeline.eval_batches(self.config, dataset, records=records)

    def _views(self, batch: Batch) -> Batch:
        return {m: batch[m] for m in self.config.modalities}

    def _placed(self, batch: Batch) -> Batch:
        sharding = mesh_lib.batch_sharding(self._mesh, _BATCH)
        return mesh_lib.put_batch(self._views(batch), sharding, _BATCH)


@functools.cache
def _augmented(config: LoaderConfig) -> Callable[[Batch], Any]:
    return jax.jit(lambda batch: augment(config, batch))


@functools.cache
def _encode_function(
    config: LoaderConfig, model: ModelConfig, mesh: jax.sharding.Mesh
) -> Callable[[Tree, Batch], tuple[dict[Modality, jax.Array], dict[Modality, jax.Array]]]:
    """Returns the jitted (student's parameters, batch) -> features and outputs of the heads."""
    architecture = Architecture.of(model, config)

    def encode(params: Tree, batch: Batch) -> Any:
        student, views = module_of(Student, params, architecture), augment(config, batch)
        features, outputs = {}, {}
        with matmul_precision(architecture.model):
            for m in architecture.modalities:
                features[m] = pool(student.encoders(m, views[m]["global"]))
                outputs[m] = student.heads[m](features[m])
        return features, outputs

    return jax.jit(mesh_lib.on_mesh(encode, mesh))


def _classes(batch: Batch) -> list[frozenset[int]]:
    """Returns the classes of each row."""
    if "labels" in batch:
        return [frozenset(np.flatnonzero(row).tolist()) for row in batch["labels"]]
    return [frozenset([int(label)] if label >= 0 else []) for label in batch["label"]]
