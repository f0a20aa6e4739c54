"""Attention-based refinement of the teachers' tokens across modalities (docs/method.md)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def cross_modal_attention(
    attention: Float[Array, "batch heads tokens"],
    other: Float[Array, "batch heads others"],
    mode: Literal["mean", "softmax"],
) -> Float[Array, "batch heads tokens"]:
    """Weighs the CLS attention of a modality by the other modality's.

    The paper averages, per sample and head, the outer product of both attentions over the other
    modality's positions. That average is `attention` times the mean of `other`, so the product
    of size heads x tokens x other tokens is never formed.

    Args:
      attention: of the modality's CLS query over its patch tokens, float32.
      other: of the other modality's, over its own patch tokens, float32.
      mode: `mean` divides by the mean of `attention`, `softmax` takes the softmax over tokens.
    """
    averaged = attention * other.mean(-1, keepdims=True)
    if mode == "softmax":
        return jax.nn.softmax(averaged, axis=-1)
    return averaged / attention.mean(-1, keepdims=True)


def refine_tokens(
    tokens: Float[Array, "batch tokens width"],
    cross_attention: Float[Array, "batch heads tokens"],
) -> Float[Array, "batch tokens width"]:
    """Weighs patch tokens, without CLS, by the mean over heads of `cross_attention`, in float32.

    The energy of each sample, the squared norm of its mean token, stays the same.
    """
    tokens = tokens.astype(jnp.float32)
    weighted = tokens * cross_attention.mean(1)[:, :, None]
    scale = jnp.sqrt(_pooled_energy(tokens) / _pooled_energy(weighted))
    return weighted * scale[:, None, None]


def _pooled_energy(tokens: Float[Array, "batch tokens width"]) -> Float[Array, " batch"]:
    return jnp.square(tokens.mean(1)).sum(-1)
