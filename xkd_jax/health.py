"""Signs of collapse, to watch during training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from xkd_jax.config import MODALITIES
from xkd_jax.networks.encoder import pool


def signs_of_collapse(out: dict[str, Any]) -> dict[str, jax.Array]:
    """Scalars from the objective's intermediate results.

    A teacher that says the same of every sample has `teacher_entropy` near
    `teacher_mean_entropy`; one that says nothing has both near log(outputs). An encoder whose
    features agree has a `feature_spread` near 0 and a `feature_cosine` near 1.
    """
    signs: dict[str, jax.Array] = {}
    for m in MODALITIES:
        if (probabilities := out.get(f"{m}_teacher_probabilities")) is not None:
            signs[f"collapse/{m}_teacher_entropy"] = entropy(probabilities).mean()
            signs[f"collapse/{m}_teacher_mean_entropy"] = entropy(probabilities.mean(0))
        if (latent := out.get(f"{m}_latent")) is not None:
            features = jax.lax.stop_gradient(pool(latent))
            signs[f"collapse/{m}_feature_spread"] = spread(features)
            signs[f"collapse/{m}_feature_cosine"] = mean_cosine(features)
    return signs


def entropy(probabilities: jax.Array) -> jax.Array:
    """Entropy in nats along the last axis."""
    return -jax.scipy.special.xlogy(probabilities, probabilities).sum(-1)


def spread(features: jax.Array) -> jax.Array:
    """Mean over dimensions of the standard deviation over samples, times sqrt(width).

    Features [batch, width] are taken at unit length: 1 when they spread evenly over the sphere,
    0 when they agree.
    """
    return _unit(features).std(0).mean() * features.shape[1] ** 0.5


def mean_cosine(features: jax.Array) -> jax.Array:
    """Mean cosine between different samples of [batch, width]; 0 for a batch of one."""
    n = features.shape[0]
    total = jnp.square(_unit(features).sum(0)).sum()
    return (total - n) / max(n * (n - 1), 1)


def _unit(features: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(norm, 1e-12)
