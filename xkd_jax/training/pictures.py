"""Reconstructions of a few clips as images, for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.loader_config import Modality, ViewConfig
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset
from data_pipelines.read.read_ahead import Batch
from data_pipelines.tiles import false_colors, tile
from xkd_jax.augment import augment
from xkd_jax.config.pretraining import Config
from xkd_jax.method.train_state import module_of
from xkd_jax.networks.student import Student
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.mesh import on_mesh, put_batch
from xkd_jax.training.reconstructed_views import (
    ReconstructedViews,
    reconstructed_views,
    unnormalized,
)

CLIPS = 4


def gallery(
    config: Config,
    dataset: Dataset,
    rows: list[int],
    sharding: NamedSharding,
    modalities: tuple[Modality, ...],
) -> Callable[[Tree], dict[str, np.ndarray]]:
    """Returns a function from a student's parameters to {tag: uint8 [height, width, 3]}.

    Each image has a row for each of the first records of the data set, and in it the middle frame,
    or the spectrogram: original, masked and predicted. The masks are the same at each call.

    Args:
      config: of the run.
      dataset: the records.
      rows: this host's rows of a batch.
      sharding: of every array of a batch.
      modalities: those that have a trained decoder.
    """
    architecture, count = config.architecture, min(CLIPS, len(dataset), config.batch_size)

    def predict(params: Tree, batch: Batch) -> dict[Modality, ReconstructedViews]:
        student, views = module_of(Student, params, architecture), augment(config, batch)
        found = {}
        for m in modalities:
            view, shape = views[m]["global"], (config.batch_size, architecture.views[m].tokens)
            noise = jax.random.uniform(jax.random.key(0), shape)
            found[m] = reconstructed_views(student, architecture, m, view, noise)
        return jax.tree.map(lambda rows: rows[:count], found)

    mesh = sharding.mesh
    predicted = jax.jit(on_mesh(predict, mesh), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def draw(params: Tree) -> dict[str, np.ndarray]:
        (batch,) = pipeline.eval_batches(config, dataset, rows, records=np.arange(count))
        placed = put_batch({m: batch[m] for m in modalities}, sharding, config.batch_size)
        found = jax.device_get(predicted(params, placed))
        return {
            f"reconstruction/{m}": sheet(architecture.views[m], views) for m, views in found.items()
        }

    return draw


def sheet(settings: ViewConfig, views: ReconstructedViews) -> np.ndarray:
    """Returns an image with a row for each clip: original, masked and predicted.

    Args:
      settings: of the views.
      views: normalized float32 [clips, ...].

    Returns:
      uint8 [height, width, 3].
    """
    shown = [unnormalized(settings, np.asarray(view)) for view in views]
    if settings.channels:
        images = [view[:, view.shape[1] // 2] for view in shown]
    else:
        low, high = shown[0].min(), shown[0].max()
        images = [_false_colors((view - low) / max(high - low, 1e-6)) for view in shown]
    return np.concatenate(
        [np.concatenate([tile(image) for image in clip], 1) for clip in zip(*images, strict=True)]
    )


def _false_colors(levels: np.ndarray) -> np.ndarray:
    """Colors of spectrograms [clips, mel, time] between 0 and 1, low frequencies at the bottom."""
    gray = (255 * np.clip(levels, 0, 1)).astype(np.uint8)[:, ::-1]
    return np.stack([false_colors(g) for g in gray])
