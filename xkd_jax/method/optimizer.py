"""The optimizer of the students: per-tensor clipping, then AdamW (docs/method.md)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.pretraining import OptimizerConfig
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.schedules import Schedules
from xkd_jax.networks.tree import Leaf, Tree, is_stacked, path_names
from xkd_jax.parallel.mesh import traced_device

# added to the norm, as in PyTorch's clip_grad_norm_
CLIP_EPS = 1e-6


def optimizer(
    settings: OptimizerConfig, schedules: Schedules, active: ActiveLosses
) -> optax.GradientTransformationExtraArgs:
    """Returns per-tensor gradient clipping followed by AdamW with scheduled rates.

    Args:
      settings: betas, epsilon and the largest gradient norm.
      schedules: learning rate and weight decay.
      active: losses with a nonzero weight; parameters that no loss uses do not decay.
    """
    clip = clip_each_tensor(settings.clip) if settings.clip else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(settings.b1, settings.b2, settings.eps),
        decay_weights(schedules, active),
        optax.scale_by_learning_rate(schedules.learning_rate),
    )


def clip_each_tensor(limit: float) -> optax.GradientTransformationExtraArgs:
    """Returns the clipping of each tensor's gradient to norm `limit`, except for decoders.

    In a stack of blocks, each layer is clipped separately. `update` takes the gradients'
    `squared_norms` as keyword argument `squares`, or computes them.
    """

    def update(
        gradients: Tree, state: optax.EmptyState, params: Tree | None = None, *,
        squares: Tree | None = None, **others: Any,
    ) -> tuple[Tree, optax.EmptyState]:  # fmt: skip
        del params, others
        if squares is None:
            squares = squared_norms(gradients, jnp.float32)

        def clip(path: tuple[Any, ...], gradient: jax.Array, squared: jax.Array) -> jax.Array:
            if path_names(path)[0] == "decoders":
                return gradient
            scale = jnp.minimum(1.0, limit / (jnp.sqrt(squared) + CLIP_EPS))
            return gradient * scale.reshape(scale.shape + (1,) * (gradient.ndim - scale.ndim))

        return jax.tree_util.tree_map_with_path(clip, gradients, squares), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def squared_norms(gradients: Tree, dtype: DTypeLike) -> Tree:
    """Returns the squared norm of each tensor, float32; of a stack, those of its layers [layers].

    Args:
      gradients: float32 gradients.
      dtype: compute dtype, in which the gradients of matrices were computed.
    """

    def of(path: tuple[Any, ...], gradient: jax.Array) -> jax.Array:
        if not is_stacked(path):
            return jnp.square(gradient).sum()
        if gradient.ndim < 3 or traced_device().platform != "tpu":
            return jnp.square(gradient).sum(tuple(range(1, gradient.ndim)))
        # A sum for each layer: on TPUs, one operation for all layers takes 2.6 times as long, by
        # the compiler's estimate. Without the barrier, XLA would add up a layer's squares in the
        # product that yields it, and then copy the layer into the stack.
        layers = jax.lax.optimization_barrier(gradient.astype(dtype))
        return jnp.stack([jnp.square(layer.astype(jnp.float32)).sum() for layer in layers])

    return jax.tree_util.tree_map_with_path(of, gradients)


class DecayState(NamedTuple):
    """Number of updates made, int32 scalar."""

    step: jax.Array


def decay_weights(schedules: Schedules, active: ActiveLosses) -> optax.GradientTransformation:
    """Returns the scheduled weight decay of the tensors of `decay_mask`."""

    def init(params: optax.Params) -> DecayState:  # optax also passes a placeholder
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
    """Returns True for each tensor with weight decay.

    These tensors have two or more axes (without the layer axis of a stack), are not a bias, and get
    a gradient from a loss.

    Args:
      params: the student's parameters.
      active: losses with a nonzero weight.
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
