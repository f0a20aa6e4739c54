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
from xkd_jax.evaluate.eval_clips import TARGETS
from xkd_jax.evaluate.network import Network
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.mesh import on_mesh


def feature_function(
    network: Network | None,
    output: Output,
    modalities: Sequence[Modality],
    views: LoaderConfig,
    mesh: Mesh,
) -> Callable[[Tree, Batch], dict[str, jax.Array]]:
    """Returns the jitted (parameters, batch) -> features and labels, replicated on all devices.

    Args:
      network: the encoders; None: features are the spectrogram's mean over time.
      output: kind of features: pooled as by the encoder's authors, or the output of the projection
        head for these.
      modalities: the evaluated ones.
      views: the config of the views (`pretrained.viewing`).
      mesh: the mesh of devices.

    Returns:
      A function to {modality: float32 [batch, crops, width]} with the batch's `label` or `labels`.
    """

    def features_of(params: Tree, modality: Modality, crop: Batch) -> jax.Array:
        view = augment(views, {modality: crop})[modality]["global"]
        if network is None:
            return view.mean(-1)  # of a spectrogram, over time
        encoder = network.encoder(modality, params["encoders"][modality])
        with matmul_precision(network.model):
            pooled = encoder.pool(encoder(view))
            if output == "encoder":
                return pooled
            return network.head(modality, params["heads"][modality])(pooled)

    def encode(params: Tree, batch: Batch) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {name: batch[name] for name in TARGETS if name in batch}
        for modality in modalities:
            of_crop = functools.partial(features_of, params, modality)
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
