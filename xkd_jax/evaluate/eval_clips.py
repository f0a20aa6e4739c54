"""One pass over the clips of a benchmark's records, on the devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh, NamedSharding

from data_pipelines.loader_config import LoaderConfig
from data_pipelines.read import pipeline, views
from data_pipelines.read.dataset import Dataset
from data_pipelines.read.read_ahead import Batch
from xkd_jax.config.evaluation import EvalConfig, TestView
from xkd_jax.parallel import mesh as mesh_lib

# Clips that train are random and augmented; clips that test are spread evenly and plain.
Use = Literal["train", "test"]
# What names a batch's labels: one of them, see `data_pipelines.read.pipeline.eval_batches`.
TARGETS = ("label", "labels")
# Of the frame's short side: the authors' test view of 112 pixels of a frame scaled to 128.
CENTER_SIDE = 0.875


def clip_batches(
    config: EvalConfig,
    viewing: LoaderConfig,
    mesh: Mesh,
    dataset: Dataset,
    records: np.ndarray,
    use: Use,
    start: int = 0,
) -> Iterator[Batch]:
    """Yields batches of `config.batch_size` clips, those of a record one after the other.

    Args:
      config: of the evaluation: its clips.
      viewing: of the views (`pretrained.viewing`).
      mesh: that the batches are spread over.
      dataset: the split.
      records: indices in it, int64 [records].
      use: which kind of clips.
      start: the first batch.

    Yields:
      {modality: views, "label" or "labels": ...}; the rows past the last clip are zeros.
    """
    batch_sharding = mesh_lib.batch_sharding(mesh, config.batch_size)
    rows = mesh_lib.local_rows(batch_sharding, config.batch_size)
    common: dict[str, Any] = {"modalities": config.modalities, "records": records}
    if use == "train":
        host = pipeline.augmented_batches(
            viewing, dataset, rows, start, clips=config.clips.train, **common
        )
    else:
        make_views = PlainViews(config.clips.view, config.clips.crops)
        host = pipeline.eval_batches(
            viewing, dataset, rows, start, clips=config.clips.test, make_views=make_views, **common
        )
    for batch in host:
        yield on_devices(batch, config, batch_sharding)


def on_devices(batch: Batch, config: EvalConfig, batch_sharding: NamedSharding) -> Batch:
    """Puts the views and labels of a host's rows on its devices."""
    wanted = (*config.modalities, *TARGETS)
    kept = {name: batch[name] for name in wanted if name in batch}
    return mesh_lib.put_batch(kept, batch_sharding, config.batch_size)


@dataclasses.dataclass(frozen=True)
class PlainViews:
    """The plain views of a test clip, as `ClipsConfig.view` says; can be pickled."""

    view: TestView
    crops: int

    def __call__(self, *args: Any) -> views.Views:
        if self.view == "center":
            return views.draw_eval_views(*args, side_fraction=CENTER_SIDE)
        return views.draw_crop_views(*args, crops=self.crops)
