"""Rematerialization: the activations of a block that are saved for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from xkd_jax.config.architecture import Remat, RematChoice

# Name (`checkpoint_name`) of the activations that `products` saves: outputs of products and of
# attention, and the sum after attention. The others are cheap to compute again.
KEPT = "kept"


def chosen(remat: RematChoice, device: Any) -> Remat:
    """Returns the rematerialization on a device.

    `auto` is `products` on CPUs: computing the other activations again takes a CPU about as long as
    writing and reading them, and the base step of 4 clips needs 1.7 GiB of temporaries instead of
    3.2.

    Args:
      remat: `ModelConfig.remat`.
      device: a `jax.Device` or `jax.sharding.AbstractDevice`.
    """
    if remat != "auto":
        return remat
    return "products" if device.platform == "cpu" else "none"


def checkpointed(block: Callable[..., Any], remat: Remat, looped: bool) -> Callable[..., Any]:
    """Returns a block whose gradient computes the activations of `remat` again.

    Args:
      block: function of a block.
      remat: the result of `chosen`.
      looped: whether it runs in a loop; if not, common subexpression elimination must be prevented.
    """
    if remat == "none":
        return block
    policies = jax.checkpoint_policies
    products = policies.save_from_both_policies(
        policies.save_only_these_names(KEPT), _is_fused_attention
    )
    policy = products if remat == "products" else None
    return jax.checkpoint(block, prevent_cse=not looped, policy=policy)


def _is_fused_attention(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether an operation is cuDNN's attention, whose gradient needs its outputs."""
    return "dot_product_attention_fwd" in primitive.name
