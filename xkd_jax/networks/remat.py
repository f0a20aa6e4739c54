"""Rematerialization: which activations of a block are kept for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from xkd_jax.config.pretraining import Remat

# Name (`checkpoint_name`) of the activations that `products` keeps: what comes out of a product
# or of attention, and the sum after attention. What lies between is cheap to compute again.
KEPT = "kept"


def checkpointed(block: Callable[..., Any], remat: Remat, looped: bool) -> Callable[..., Any]:
    """Returns a block whose gradient computes again what `remat` says.

    Outside of a loop the compiler has to be kept from finding that it was computed before.
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
    """Whether an operation is cuDNN's attention, whose results its gradient reads."""
    return "dot_product_attention_fwd" in primitive.name
