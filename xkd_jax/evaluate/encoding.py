"""The compiled function from a batch of clips to features."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import einops
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.loader_config import LoaderConfig, Modality
from data_pipelines.read.read_ahead import Batch
from xkd_jax.augment import augment
from xkd_jax.config.evaluation import Output
from xkd_jax.config.pretraining import Architecture
from xkd_jax.evaluate.eval_clips import TARGETS
from xkd_jax.method.train_state import module_of
from xkd_jax.networks.encoder import pool
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.student import Teacher
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.mesh import on_mesh


def feature_function(
    architecture: Architecture | None,
    output: Output,
    modalities: Sequence[Modality],
    views: LoaderConfig,
    mesh: Mesh,
) -> Callable[[Tree, Batch], dict[str, jax.Array]]:
    """Returns the jitted (parameters, batch) -> features and labels, replicated on all devices.

    Args:
      architecture: of the networks; None: no network, but the spectrogram's mean over time.
      output: what is read off a network.
      modalities: those that are evaluated.
      views: the config of the views (`pretrained.viewing`).
      mesh: the mesh of devices.

    Returns:
      A function to {modality: float32 [batch, crops, width]} with the batch's `label` or `labels`.
    """

    def features_of(network: Teacher | None, modality: Modality, crop: Batch) -> jax.Array:
        view = augment(views, {modality: crop})[modality]["global"]
        if architecture is None or network is None:
            return view.mean(-1)  # of a log-mel spectrogram, over time
        with matmul_precision(architecture.model):
            pooled = pool(network.encoders(modality, view))
            return pooled if output == "encoder" else network.heads[modality](pooled)

    def encode(params: Tree, batch: Batch) -> dict[str, jax.Array]:
        network = None if architecture is None else module_of(Teacher, params, architecture)
        found: dict[str, jax.Array] = {name: batch[name] for name in TARGETS if name in batch}
        for modality in modalities:
            of_crop = functools.partial(features_of, network, modality)
            # sequentially, so that three crops need as much memory as one
            crops = jax.lax.map(of_crop, crops_first(batch[modality]))
            found[modality] = einops.rearrange(crops, "crops b d -> b crops d")
        return found

    return jax.jit(on_mesh(encode, mesh), out_shardings=NamedSharding(mesh, PartitionSpec()))


def crops_first(modality_views: Batch) -> Batch:
    """Returns global views [crops, batch, ...] of views [batch, crops, ...] or [batch, ...]."""
    view = modality_views["global"]
    if "frames" not in view or view["frames"].ndim == 5:
        return {"global": {name: value[None] for name, value in view.items()}}
    return {
        "global": {
            name: einops.rearrange(value, "b crops ... -> crops b ...")
            for name, value in view.items()
        }
    }
