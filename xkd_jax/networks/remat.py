"""Rematerialization: the activations of a block that are saved for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from xkd_jax.config.pretraining import Remat

# Name (`checkpoint_name`) of the activations that `products` saves: outputs of products and of
# attention, and the sum after attention. The others are cheap to compute again.
KEPT = "kept"


def checkpointed(block: Callable[..., Any], remat: Remat, looped: bool) -> Callable[..., Any]:
    """Returns a block whose gradient computes the activations of `remat` again.

    Args:
      block: function of a block.
      remat: `ModelConfig.remat`.
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
