"""Input and predictions of a masked autoencoder, as views."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from data_pipelines.loader_config import ViewConfig
from xkd_jax.config.architecture import ModelConfig
from xkd_jax.method.losses import patch_statistics
from xkd_jax.networks.patches import patchify, random_masking, unpatchify
from xkd_jax.networks.precision import matmul_precision


class ReconstructedViews(NamedTuple):
    """Normalized float32 views [batch, ...] of a modality.

    Attributes:
      original: the input of the network.
      masked: the same with the masked patches at the mean.
      predicted: the same with predictions of the masked patches, scaled to the patch's mean and
        deviation, which the network does not predict.
    """

    original: jax.Array
    masked: jax.Array
    predicted: jax.Array


def reconstructed_views(
    encode: Callable[[jax.Array, jax.Array], jax.Array],
    decode: Callable[[jax.Array, jax.Array], jax.Array],
    settings: ViewConfig,
    mask_ratio: float,
    model: ModelConfig,
    view: Float[Array, "batch ..."],
    noise: Float[Array, "batch tokens"],
) -> ReconstructedViews:
    """Masks global views, and predicts the masked patches by an encoder and a decoder.

    Args:
      encode: (views, indices of the tokens to encode) -> tokens, CLS first.
      decode: a `Decoder`, or a function like it.
      settings: of the views, for their patches.
      mask_ratio: fraction of the tokens that are masked.
      model: how the networks are computed.
      view: normalized global views.
      noise: decides the masks, as in `random_masking`.
    """
    masking = random_masking(noise, mask_ratio)
    with matmul_precision(model):
        predicted = decode(encode(view, masking.keep), masking.restore)
    patches = patchify(view, settings.patch)
    mean, deviation = patch_statistics(patches)
    hidden = masking.removed[..., None] > 0
    restored = jnp.where(hidden, predicted.astype(jnp.float32) * deviation + mean, patches)
    return ReconstructedViews(
        *(
            unpatchify(p, settings.patch, settings.grid)
            for p in (patches, jnp.where(hidden, 0, patches), restored)
        )
    )


def unnormalized(settings: ViewConfig, view: np.ndarray) -> np.ndarray:
    """Returns views for display: uint8 frames, or float32 log-mel spectrograms.

    Args:
      settings: of the views.
      view: normalized views of any batch axes.
    """
    view = view * np.array(settings.std, np.float32) + np.array(settings.mean, np.float32)
    if not settings.channels:
        return view
    return np.clip(255 * view + 0.5, 0, 255).astype(np.uint8)
