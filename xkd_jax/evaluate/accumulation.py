"""Gradients of a batch that is too large to be differentiated at once."""

from __future__ import annotations

from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp

from data_pipelines.read.read_ahead import Batch
from xkd_jax.networks.tree import Tree

LossAndGradients = tuple[jax.Array, Tree]
# (trained parameters, network parameters, batch, key) -> the mean loss and its gradients
Differentiated = Callable[[Tree, Tree, Batch, jax.Array], LossAndGradients]


def accumulated(differentiate: Differentiated, parts: int) -> Differentiated:
    """Takes the loss and the gradients over `parts` parts of a batch, one after the other.

    Part p has the rows p, p + parts, p + 2 parts, ...: of rows that are split over devices, each
    device then has its share of every part. A part has a key of its own.

    Args:
      differentiate: of a mean over rows.
      parts: a divisor of the number of rows; of 1, the function itself is returned.
    """
    if parts == 1:
        return differentiate

    def over_parts(trained: Tree, network: Tree, batch: Batch, key: jax.Array) -> LossAndGradients:
        # a slice a turn, not one transposition of everything: the batch is not held twice
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
