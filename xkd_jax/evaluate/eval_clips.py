"""Batches of a benchmark's clips, on the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh, NamedSharding

from data_pipelines.loader_config import LoaderConfig, Modality
from data_pipelines.read import pipeline, views
from data_pipelines.read.dataset import Dataset
from data_pipelines.read.read_ahead import Batch
from xkd_jax.config.evaluation import ClipsConfig, TestView
from xkd_jax.parallel import mesh as mesh_lib

# Training clips are random and augmented; test clips are spread evenly and not augmented.
Use = Literal["train", "test"]
# Names of labels; a batch has one of them (`data_pipelines.read.pipeline.eval_batches`).
TARGETS = ("label", "labels")
# As a fraction of the frame's short side: the authors' test view has 112 of 128 pixels.
CENTER_SIDE = 0.875


def clip_batches(
    clips: ClipsConfig,
    modalities: Sequence[Modality],
    viewing: LoaderConfig,
    mesh: Mesh,
    dataset: Dataset,
    records: np.ndarray,
    use: Use,
    start: int = 0,
) -> Iterator[Batch]:
    """Yields batches of `viewing.batch_size` clips; the clips of a record are consecutive.

    Args:
      clips: number of clips of a record, and the views of test clips.
      modalities: the ones to read.
      viewing: the config of the views (`pretrained.viewing`), and the batch size.
      mesh: the mesh of devices.
      dataset: the split.
      records: indices in the split, int64 [records].
      use: training or test clips.
      start: index of the first batch.

    Yields:
      {modality: views, "label" or "labels": ...}; rows after the last clip are zeros.
    """
    size = viewing.batch_size
    batch_sharding = mesh_lib.batch_sharding(mesh, size)
    rows = mesh_lib.local_rows(batch_sharding, size)
    common: dict[str, Any] = {"modalities": modalities, "records": records}
    if use == "train":
        host = pipeline.augmented_batches(
            viewing, dataset, rows, start, clips=clips.train, **common
        )
    else:
        make_views = PlainViews(clips.view, clips.crops)
        host = pipeline.eval_batches(
            viewing, dataset, rows, start, clips=clips.test, make_views=make_views, **common
        )
    for batch in host:
        yield on_devices(batch, modalities, batch_sharding, size)


def on_devices(
    batch: Batch, modalities: Sequence[Modality], batch_sharding: NamedSharding, batch_size: int
) -> Batch:
    """Starts the transfer of views and labels of this host's rows to its devices.

    Args:
      batch: this host's rows.
      modalities: whose views are transferred.
      batch_sharding: of a batch.
      batch_size: rows of a batch on all hosts.
    """
    wanted = (*modalities, *TARGETS)
    kept = {name: batch[name] for name in wanted if name in batch}
    return mesh_lib.put_batch(kept, batch_sharding, batch_size)


@dataclasses.dataclass(frozen=True)
class PlainViews:
    """Makes the views of a test clip, without augmentation; can be pickled.

    view: as `ClipsConfig.view`.
    crops: number of crops, if view is `spread`.
    """

    view: TestView
    crops: int

    def __call__(self, *args: Any) -> views.Views:
        if self.view == "center":
            return views.draw_eval_views(*args, side_fraction=CENTER_SIDE)
        return views.draw_crop_views(*args, crops=self.crops)
