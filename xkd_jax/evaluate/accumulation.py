"""Gradient accumulation over parts of a batch."""

from __future__ import annotations

from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp

from data_pipelines.read.read_ahead import Batch
from xkd_jax.networks.tree import Tree

LossAndGradients = tuple[jax.Array, Tree]
# (trained parameters, network parameters, batch, key) -> mean loss and its gradients
Differentiated = Callable[[Tree, Tree, Batch, jax.Array], LossAndGradients]


def accumulated(differentiate: Differentiated, parts: int) -> Differentiated:
    """Returns a function that computes loss and gradients part by part, and their means.

    Part p has the rows p, p + parts, p + 2 parts, ..., so that each device has an equal part of its
    rows in every part. Each part has another key.

    Args:
      differentiate: computes loss and gradients of a mean over rows.
      parts: number of parts, a divisor of the number of rows.
    """
    if parts == 1:
        return differentiate

    def over_parts(trained: Tree, network: Tree, batch: Batch, key: jax.Array) -> LossAndGradients:
        # slicing part by part, without a transposed copy of the whole batch
        stacked = jax.tree.map(
            lambda rows: einops.rearrange(rows, "(n parts) ... -> n parts ...", parts=parts), batch
        )

        def add(total: LossAndGradients, part: jax.Array) -> tuple[LossAndGradients, None]:
            rows = jax.tree.map(
                lambda rows: jax.lax.dynamic_index_in_dim(rows, part, 1, keepdims=False), stacked
            )
            found = differentiate(trained, network, rows, jax.random.fold_in(key, part))
            return jax.tree.map(jnp.add, total, found), None

        nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained))
        total, _ = jax.lax.scan(add, nothing, jnp.arange(parts))
        return jax.tree.map(lambda value: value / parts, total)

    return over_parts
