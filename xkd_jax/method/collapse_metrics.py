"""Metrics that show a collapse of the representations during training."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xkd_jax.method.objective import ObjectiveOutputs
from xkd_jax.networks.encoder import pool


def collapse_metrics(outputs: ObjectiveOutputs) -> dict[str, Float[Array, ""]]:
    """Returns scalars of the teachers' distributions and the student's features.

    `teacher_entropy` is the mean entropy of the samples' targets in nats, `teacher_mean_entropy`
    the entropy of the mean target. If both are equal, every sample has the same target; if both are
    near log(outputs), targets are uniform. If all samples have equal features, `feature_spread` is
    near 0 and `feature_cosine` near 1.
    """
    metrics: dict[str, jax.Array] = {}
    for direction, targets in outputs.targets.items():
        name = f"collapse/{direction.teacher}_teacher"
        metrics[f"{name}_entropy"] = entropy(targets).mean()
        metrics[f"{name}_mean_entropy"] = entropy(targets.mean(0))
    for m, latent in outputs.latents.items():
        features = jax.lax.stop_gradient(pool(latent))
        metrics[f"collapse/{m}_feature_spread"] = spread(features)
        metrics[f"collapse/{m}_feature_cosine"] = mean_cosine(features)
    return metrics


def information(scalars: Mapping[str, float]) -> dict[str, float]:
    """Returns the mutual information of clips and targets in nats, 0 after a collapse.

    It is the entropy of a batch's mean target minus the mean entropy of its targets, at most
    min(log(batch), log(outputs)).

    Args:
      scalars: {name: value}, with the entropies of `collapse_metrics` or their means over steps.

    Returns:
      {`collapse/{modality}_teacher_information`: nats} of each teacher with entropies.
    """
    end = "_teacher_entropy"
    return {
        f"{teacher}_teacher_information": scalars[f"{teacher}_teacher_mean_entropy"] - mean
        for name, mean in scalars.items()
        if (teacher := name.removesuffix(end)) != name
    }


def entropy(probabilities: Float[Array, "*rows outputs"]) -> Float[Array, "*rows"]:
    """Entropy in nats along the last axis."""
    return -jax.scipy.special.xlogy(probabilities, probabilities).sum(-1)


def spread(features: Float[Array, "samples width"]) -> Float[Array, ""]:
    """Mean over dimensions of the standard deviation over samples, times sqrt(width).

    Features are scaled to unit length first: near 1 for uniform features on the sphere, 0 for equal
    ones.
    """
    return _unit(features).std(0).mean() * features.shape[1] ** 0.5


def mean_cosine(features: Float[Array, "samples width"]) -> Float[Array, ""]:
    """Mean cosine between different samples; 0 for a single one."""
    n = features.shape[0]
    total = jnp.square(_unit(features).sum(0)).sum()
    return (total - n) / max(n * (n - 1), 1)


def _unit(features: Float[Array, "samples width"]) -> Float[Array, "samples width"]:
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(norm, 1e-12)
