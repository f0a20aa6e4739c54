"""Attention-based refinement of the teachers' tokens across modalities (spec section 3.3)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp


def cross_modal_attention(
    attention: jax.Array, other: jax.Array, mode: Literal["mean", "softmax"]
) -> jax.Array:
    """Weighs a modality's CLS attention by the other modality's.

    The paper averages, per sample and head, the outer product of both attentions over the other
    modality's positions. That average is `attention` times the mean of `other`, so the product
    of size heads x tokens x other tokens is never formed.

    Args:
      attention: float32 [batch, heads, tokens].
      other: float32 [batch, heads, other tokens].
      mode: `mean` divides by the mean of `attention`, `softmax` takes the softmax over tokens.

    Returns:
      float32 [batch, heads, tokens].
    """
    averaged = attention * other.mean(-1, keepdims=True)
    if mode == "softmax":
        return jax.nn.softmax(averaged, axis=-1)
    return averaged / attention.mean(-1, keepdims=True)


def refine_tokens(tokens: jax.Array, cross_attention: jax.Array) -> jax.Array:
    """Weighs patch tokens by the mean over heads of `cross_attention`, keeping their energy.

    The energy is the squared norm of the mean token of each sample.

    Args:
      tokens: [batch, tokens, width], without CLS.
      cross_attention: [batch, heads, tokens].

    Returns:
      float32 [batch, tokens, width].
    """
    tokens = tokens.astype(jnp.float32)
    weighted = tokens * cross_attention.mean(1)[:, :, None]
    scale = jnp.sqrt(_pooled_energy(tokens) / _pooled_energy(weighted))
    return weighted * scale[:, None, None]


def _pooled_energy(tokens: jax.Array) -> jax.Array:
    return jnp.square(tokens.mean(1)).sum(-1)
