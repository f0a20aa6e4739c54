"""Extraction of features of a benchmark's clips to memory-mapped files.

Each set has a folder (`feature_store`). Its name includes a digest of the settings and of the
records' content, so changed settings or data get another folder. An interrupted extraction resumes.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, LoaderConfig, Modality
from data_pipelines.progress import ProgressMeter
from data_pipelines.read.dataset import Dataset
from data_pipelines.read.read_ahead import Batch
from xkd_jax.config.encoder import input_fields
from xkd_jax.config.evaluation import ClipsConfig, Network, Output
from xkd_jax.evaluate.encoding import feature_function
from xkd_jax.evaluate.eval_clips import Use, clip_batches
from xkd_jax.evaluate.feature_store import FeatureSet, FeatureStore
from xkd_jax.evaluate.pretrained import Pretrained
from xkd_jax.metrics.scores import check_finite
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.processes import on_main, print_on_main

_FORMAT = 3


@dataclasses.dataclass(frozen=True)
class Extraction:
    """Extracts sets of features with one network on one mesh.

    Attributes:
      network: name of the network.
      output: kind of features (`encoding.feature_function`).
      modalities: modalities whose encoders are used.
      clips: clips of a record.
      pretrained: the encoders.
      views: the config of the views (`pretrained.viewing`), with seed and batch size.
      mesh: the mesh of devices.
      encode: the jitted encoder.
      directory: folder of the sets' folders.
    """

    network: Network
    output: Output
    modalities: tuple[Modality, ...]
    clips: ClipsConfig
    pretrained: Pretrained
    views: LoaderConfig
    mesh: Mesh
    encode: Callable[[Tree, Batch], dict[str, jax.Array]]
    directory: PurePath

    @classmethod
    def create(
        cls,
        network: Network,
        output: Output,
        modalities: tuple[Modality, ...],
        clips: ClipsConfig,
        pretrained: Pretrained,
        views: LoaderConfig,
        mesh: Mesh,
        directory: PurePath,
    ) -> Extraction:
        """Returns an extraction with the jitted encoder; its arguments are the attributes."""
        encoders = None if network == "log_mel" else pretrained.network
        encode = feature_function(encoders, output, modalities, views, mesh)
        return cls(network, output, modalities, clips, pretrained, views, mesh, encode, directory)

    def extract(
        self, dataset: Dataset, content: str, split: str, records: np.ndarray, use: Use
    ) -> FeatureSet:
        """Returns the features of the records' clips; a complete set is read, not extracted.

        Args:
          dataset: the split.
          content: digest of its records (`RecordIndex.digest`).
          split: name of the split.
          records: indices in the split, int64 [records], ascending.
          use: training or test clips.

        Raises:
          UserError: features are not finite, or the set's folder can't be used.
        """
        made_from = self.made_from(content, split, records, use)
        digest = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=8)
        clips = getattr(self.clips, use)
        store = FeatureStore(
            self.directory / f"{split}-{use}-{digest.hexdigest()}", made_from, len(records), clips
        )
        with store.opened():
            store.done = int(multihost_utils.broadcast_one_to_all(np.int64(store.done)))
            if store.done < store.rows:
                self._run(store, dataset, records, use)
            multihost_utils.sync_global_devices("features")
        found = store.read(records)
        _check_targets(found, dataset, store.directory)
        return found

    def made_from(self, content: str, split: str, records: np.ndarray, use: Use) -> dict[str, Any]:
        """Returns the sources of a set's features, of JSON types.

        Args:
          content: digest of the split's records.
          split: name of the split.
          records: indices in the split, int64 [records], ascending.
          use: training or test clips.
        """
        made_from = {
            "format": _FORMAT,
            "weights": self.pretrained.identity,
            "inputs": {m: input_fields(self.views.modality(m)) for m in self.modalities},
            "network": self.network,
            "output": self.output,
            "modalities": self.modalities,
            "content": content,
            "split": split,
            "records": hashlib.blake2b(records.astype("<i8").tobytes()).hexdigest(),
            "clips": getattr(self.clips, use),
        }
        if use == "train":
            augment = [dataclasses.asdict(a) for a in (self.clips.video, self.clips.audio)]
            return made_from | {"seed": self.views.seed, "augment": augment}
        if self.clips.view == "spread":
            return made_from | {"crops": self.clips.crops}
        return made_from | {"view": self.clips.view}

    def _run(self, store: FeatureStore, dataset: Dataset, records: np.ndarray, use: Use) -> None:
        """Encodes all batches; each is written while the next one is computed."""
        size = self.views.batch_size
        start = store.done // size
        meter = ProgressMeter(f"features  {use} clip", store.rows, "clips", start * size)
        running: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        batches = clip_batches(
            self.clips, self.modalities, self.views, self.mesh, dataset, records, use, start
        )

        def write_oldest() -> None:
            first, device_arrays = running.popleft()
            found = jax.tree.map(np.asarray, device_arrays)
            self._check(found, store, dataset, records, first)
            if first == start * size:
                on_main(lambda: store.allocate(found))
            store.write(first, found)
            if meter.is_due() or store.done == store.rows:
                store.save()
                print_on_main(meter.line(store.done))

        for step, batch in enumerate(batches, start):
            running.append((step * size, self.encode(self.pretrained.parameters, batch)))
            if len(running) > 1:
                write_oldest()
        while running:
            write_oldest()

    def _check(
        self,
        found: dict[str, np.ndarray],
        store: FeatureStore,
        dataset: Dataset,
        records: np.ndarray,
        first: int,
    ) -> None:
        """Checks that features are finite; metrics would hide values that are not."""
        source, clips = self.pretrained, store.rows // len(records)
        for name in MODALITIES:
            if name in found:
                check_finite(
                    found[name][: store.rows - first],
                    f"The {name} features of {source.origin}",
                    lambda row: dataset[int(records[(first + row) // clips])].id,
                    "give another checkpoint by --config.checkpoint or --config.step",
                )


def _check_targets(found: FeatureSet, dataset: Dataset, directory: PurePath) -> None:
    """Checks that the stored labels are classes of the data set."""
    classes, target = dataset.metadata.classes, found.target
    if target.ndim == 1:
        right = bool(((target >= -1) & (target < classes)).all())
    else:
        right = target.shape[1] == classes and bool((target <= 1).all())
    if not right:
        raise UserError(
            f"The labels in {directory} are not classes of the data set {dataset.metadata.name}:"
            " delete that folder, and the features are extracted again."
        )
