"""Names as in timm's ViT, which VideoMAE, AudioMAE and CAV-MAE use."""

from __future__ import annotations

import numpy as np

from xkd_jax.config.architecture import Transformer
from xkd_jax.inference.formats.geometry import heads_of
from xkd_jax.inference.formats.given import Given
from xkd_jax.inference.formats.layouts import query_and_value_bias
from xkd_jax.inference.formats.state_dict import StateDict

# Tensors of a block, except the biases of its attention.
_BLOCK = (
    "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias",
    "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight",
    "mlp.fc2.bias",
)  # fmt: skip


def transformer_of(
    state: StateDict, given: Given, *, depth: int, first: str = "blocks.0", eps: float
) -> Transformer:
    """Returns the config of blocks, from the shapes of the first one's tensors.

    Args:
      state: tensors of the file.
      given: number of heads, if the width does not determine it.
      depth: number of blocks.
      first: name of the first block.
      eps: epsilon of the norms.
    """
    hidden, width = state.shape(f"{first}.mlp.fc1.weight")
    heads = heads_of(state.path, width, given)
    return Transformer(width, depth, heads, hidden / width, qkv_bias=True, norm_eps=eps)


def take_block(state: StateDict, name: str, norms: str = "") -> dict[str, np.ndarray]:
    """Returns {name within the block: float32 array} of one block.

    Args:
      state: tensors of the file.
      name: name of the block.
      norms: suffix of the names of its norms.
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
    """Returns {name of `tensor_names`: float32 array} of blocks, in this order.

    Args:
      state: tensors of the file; those of the blocks are taken from it.
      names: names of the blocks in the file.
    """
    return {
        f"blocks.{i}.{part}": value
        for i, name in enumerate(names)
        for part, value in take_block(state, name).items()
    }


def take_norm(state: StateDict, name: str, ours: str) -> dict[str, np.ndarray]:
    """Returns weight and bias, float32 [width], of the LayerNorm `name` under the name `ours`."""
    return {f"{ours}.{part}": state.take(f"{name}.{part}") for part in ("weight", "bias")}
