"""The optimizer of the students: per-tensor clipping, then AdamW (docs/method.md)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.pretraining import OptimizerConfig
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.schedules import Schedules
from xkd_jax.networks.tree import Leaf, Tree, is_stacked, path_names

# PyTorch's clip_grad_norm_ divides by the norm plus this.
CLIP_EPS = 1e-6


def optimizer(
    settings: OptimizerConfig, schedules: Schedules, active: ActiveLosses
) -> optax.GradientTransformation:
    """Clipping of each encoder and head tensor by itself, AdamW, and the scheduled step size.

    Args:
      settings: betas, epsilon, weight decay and the bound of a tensor's gradient norm.
      schedules: the learning rate of each step.
      active: which losses reach which parameters; the others don't decay.
    """
    clip = clip_each_tensor(settings.clip) if settings.clip else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(settings.b1, settings.b2, settings.eps),
        decay_weights(schedules, active),
        optax.scale_by_learning_rate(schedules.learning_rate),
    )


def clip_each_tensor(limit: float) -> optax.GradientTransformation:
    """Scales each tensor's gradient down to norm `limit`; the decoders are left alone.

    Each layer of a stack of blocks is a tensor of its own.
    """

    def clip(path: tuple[Any, ...], gradient: jax.Array) -> jax.Array:
        if path_names(path)[0] == "decoders":
            return gradient
        axes = tuple(range(1 if is_stacked(path) else 0, gradient.ndim))
        norm = jnp.sqrt(jnp.square(gradient).sum(axes, keepdims=True))
        return gradient * jnp.minimum(1.0, limit / (norm + CLIP_EPS))

    return optax.stateless(lambda gradients, _: jax.tree_util.tree_map_with_path(clip, gradients))


class DecayState(NamedTuple):
    """Number of updates so far."""

    step: jax.Array


def decay_weights(schedules: Schedules, active: ActiveLosses) -> optax.GradientTransformation:
    """Adds the scheduled weight decay to every trained tensor that is neither a bias nor 1-D."""

    def init(params: Tree) -> DecayState:
        del params
        return DecayState(jnp.zeros((), jnp.int32))

    def update(updates: Tree, state: DecayState, params: Tree) -> tuple[Tree, DecayState]:
        decay = schedules.weight_decay(state.step)
        updates = jax.tree.map(
            lambda decays, u, p: u + decay * p if decays else u,
            decay_mask(params, active),
            updates,
            params,
        )
        return updates, DecayState(state.step + 1)

    return optax.GradientTransformation(init, update)


def decay_mask(params: Tree, active: ActiveLosses) -> Tree:
    """True for each tensor that decays: 2-D or more by itself, no bias, and reached by a loss.

    Args:
      params: the students' parameters.
      active: which losses reach which of them.
    """
    trained = {
        "encoders": active.encoded,
        "decoders": active.reconstructed,
        "heads": active.projected,
    }

    def decays(path: tuple[Any, ...], leaf: Leaf) -> bool:
        names = path_names(path)
        reached = not _owned_by_other(names, trained[names[0]])
        return reached and names[-1] != "bias" and leaf.ndim - is_stacked(path) > 1

    return jax.tree_util.tree_map_with_path(decays, params)


def _owned_by_other(names: tuple[str, ...], trained: tuple[str, ...]) -> bool:
    return any(m in names and m not in trained for m in MODALITIES)
