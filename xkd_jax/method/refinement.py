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
    """Returns the cross-modal attention of a modality's patch tokens.

    The paper averages the outer product of both modalities' attention over the other modality's
    tokens, for each sample and head. The average equals `attention` * mean(`other`), which needs no
    product of size heads x tokens x other tokens.

    Args:
      attention: attention of the modality's CLS query to its patch tokens, float32.
      other: attention of the other modality's CLS query to its patch tokens, float32.
      mode: `mean` divides by the mean of `attention`; `softmax` applies the softmax over tokens.
    """
    averaged = attention * other.mean(-1, keepdims=True)
    if mode == "softmax":
        return jax.nn.softmax(averaged, axis=-1)
    return averaged / attention.mean(-1, keepdims=True)


def refine_tokens(
    tokens: Float[Array, "batch tokens width"],
    cross_attention: Float[Array, "batch heads tokens"],
) -> Float[Array, "batch tokens width"]:
    """Multiplies patch tokens, without CLS, by `cross_attention` averaged over heads, in float32.

    The result is scaled so that each sample's energy, the squared norm of its mean token, is
    unchanged.
    """
    tokens = tokens.astype(jnp.float32)
    weighted = tokens * cross_attention.mean(1)[:, :, None]
    scale = jnp.sqrt(_pooled_energy(tokens) / _pooled_energy(weighted))
    return weighted * scale[:, None, None]


def _pooled_energy(tokens: Float[Array, "batch tokens width"]) -> Float[Array, " batch"]:
    return jnp.square(tokens.mean(1)).sum(-1)
