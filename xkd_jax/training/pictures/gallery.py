"""Reconstructions and attention of a few clips as images, for TensorBoard."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from data_pipelines.loader_config import LoaderConfig, Modality
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset
from data_pipelines.read.read_ahead import Batch
from data_pipelines.tiles import tile
from xkd_jax.augment import augment
from xkd_jax.config.architecture import Architecture, ModelConfig
from xkd_jax.config.loss_settings import LossWeights
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.train_state import module_of
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.student import Student
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.mesh import on_mesh, put_batch
from xkd_jax.training.pictures.drawing import drawn
from xkd_jax.training.pictures.reconstructed_views import ReconstructedViews, reconstructed_views

CLIPS = 4


class Seen(NamedTuple):
    """Views of a modality, with the student's predictions and attention.

    Attributes:
      view: normalized global views, float32 [batch, ...].
      views: masked and predicted views; None without a trained decoder.
      attention: of the last block's CLS token to the patches, the mean of its heads, float32
        [batch, tokens].
    """

    view: jax.Array
    views: ReconstructedViews | None
    attention: jax.Array


@functools.cache
def seen_function(
    config: LoaderConfig,
    model: ModelConfig,
    weights: LossWeights,
    mesh: Mesh | AbstractMesh,
    count: int,
) -> Callable[[Tree, Batch], dict[Modality, Seen]]:
    """Returns the jitted (student's parameters, batch) -> {modality: `Seen`}.

    The masks are the same at each call. Results are of the batch's first rows, and on every device.

    Args:
      config: of the views.
      model: settings of the networks.
      weights: of the losses; reconstructions are of the modalities whose decoders are trained.
      mesh: of all devices.
      count: number of those rows: one device can't hold the views of a large batch.
    """
    architecture = Architecture.of(model, config)
    decoded = ActiveLosses.of(weights).reconstructed

    def see(params: Tree, batch: Batch) -> dict[Modality, Seen]:
        student, views = module_of(Student, params, architecture), augment(config, batch)
        found = {}
        for m in architecture.modalities:
            settings, view = architecture.views[m], views[m]["global"]
            with matmul_precision(architecture.model):
                _, attention = student.encoders.with_cls_attention(m, view)
            restored: ReconstructedViews | None = None
            if m in decoded:
                noise = jax.random.uniform(jax.random.key(0), (len(view), settings.tokens))
                restored = reconstructed_views(
                    functools.partial(student.encoders, m), student.decoders[m], settings,
                    settings.mask_ratio, architecture.model, view, noise,
                )  # fmt: skip
            found[m] = Seen(view, restored, attention.mean(1))
        return jax.tree.map(lambda rows: rows[:count], found)

    return jax.jit(on_mesh(see, mesh), out_shardings=NamedSharding(mesh, PartitionSpec()))


def gallery(
    config: LoaderConfig,
    model: ModelConfig,
    weights: LossWeights,
    dataset: Dataset,
    rows: list[int],
    sharding: NamedSharding,
) -> Callable[[Tree], dict[str, np.ndarray]]:
    """Returns a function from a student's parameters to {tag: uint8 [height, width, 3]}.

    Each image has a row for each of the first records of the data set, and in it the middle frame,
    or the spectrogram: original, masked and predicted for each modality with a trained decoder,
    original and attention for each modality.

    Args:
      config: of the views.
      model: settings of the networks.
      weights: of the losses.
      dataset: the records.
      rows: this host's rows of a batch.
      sharding: of every array of a batch.
    """
    count = min(CLIPS, len(dataset), config.batch_size)
    see = seen_function(config, model, weights, sharding.mesh, count)

    def draw(params: Tree) -> dict[str, np.ndarray]:
        (batch,) = pipeline.eval_batches(config, dataset, rows, records=np.arange(count))
        views = {m: batch[m] for m in config.modalities}
        placed = put_batch(views, sharding, config.batch_size)
        found: dict[str, np.ndarray] = {}
        for m, parts in jax.device_get(see(params, placed)).items():
            shown = drawn(config.modality(m), *parts)
            if shown.masked is not None and shown.predicted is not None:
                found[f"reconstruction/{m}"] = sheet(shown.original, shown.masked, shown.predicted)
            found[f"attention/{m}"] = sheet(shown.original, shown.attention)
        return found

    return draw


def sheet(*columns: np.ndarray) -> np.ndarray:
    """Returns an image with a row for each clip, and in it the middle picture of each column.

    Args:
      *columns: uint8 [clips, time, height, width, 3] each.

    Returns:
      uint8 [height, width, 3].
    """
    middle = [column[:, column.shape[1] // 2] for column in columns]
    return np.concatenate(
        [np.concatenate([tile(image) for image in clip], 1) for clip in zip(*middle, strict=True)]
    )
