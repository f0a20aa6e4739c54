"""Names as in timm's ViT, of which VideoMAE, AudioMAE and CAV-MAE are made."""

from __future__ import annotations

import numpy as np

from xkd_jax.config.pretraining import Transformer
from xkd_jax.inference.formats.geometry import heads_of
from xkd_jax.inference.formats.layouts import query_and_value_bias
from xkd_jax.inference.formats.state_dict import Given, StateDict

# Of a block, beside what its attention's biases are called.
_BLOCK = (
    "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias",
    "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight",
    "mlp.fc2.bias",
)  # fmt: skip


def transformer_of(
    state: StateDict, given: Given, *, depth: int, first: str = "blocks.0", eps: float
) -> Transformer:
    """The blocks' description, from the shapes of the first one's tensors.

    Args:
      state: of the file.
      given: heads, where the width doesn't say them.
      depth: how many blocks there are.
      first: the name of the first block.
      eps: of the norms.
    """
    hidden, width = state.shape(f"{first}.mlp.fc1.weight")
    heads = heads_of(state.path, width, given)
    return Transformer(width, depth, heads, hidden / width, qkv_bias=True, norm_eps=eps)


def take_block(state: StateDict, name: str, norms: str = "") -> dict[str, np.ndarray]:
    """The tensors of one block without its name, with the biases of queries, keys and values.

    Args:
      state: of the file.
      name: of the block.
      norms: what the names of its norms end with.
    """
    found = {
        part: state.take(f"{name}.{part.replace('.', f'{norms}.') if 'norm' in part else part}")
        for part in _BLOCK
    }
    if f"{name}.attn.q_bias" in state:
        found["attn.qkv.bias"] = query_and_value_bias(
            state.take(f"{name}.attn.q_bias"), state.take(f"{name}.attn.v_bias")
        )
    else:
        found["attn.qkv.bias"] = state.take(f"{name}.attn.qkv.bias")
    return found


def take_blocks(state: StateDict, names: list[str]) -> dict[str, np.ndarray]:
    """The tensors of blocks under the names of `tensor_names`, numbered in this order."""
    return {
        f"blocks.{i}.{part}": value
        for i, name in enumerate(names)
        for part, value in take_block(state, name).items()
    }


def take_norm(state: StateDict, name: str, ours: str) -> dict[str, np.ndarray]:
    """Weight and bias of a LayerNorm, under another name."""
    return {f"{ours}.{part}": state.take(f"{name}.{part}") for part in ("weight", "bias")}
