"""Linear layers."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xkd_jax.parallel.axis_rules import axis_size, constrain


def linear(
    inputs: int | tuple[int, ...],
    outputs: int | tuple[int, ...],
    axes: tuple[str | None, ...],
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    *,
    use_bias: bool = True,
    kernel_init: nnx.Initializer | None = None,
) -> nnx.LinearGeneral:
    """Returns a linear layer over the last axes.

    Args:
      inputs: sizes of the contracted axes.
      outputs: sizes of the new axes.
      axes: logical axis of each kernel axis.
      dtype: compute dtype; parameters are float32.
      rngs: source of the initial values.
      use_bias: whether there is a bias, which starts with 0.
      kernel_init: initializer of the kernel as a matrix; default: Xavier-uniform.
    """
    contracted = len(inputs) if isinstance(inputs, tuple) else 1
    return nnx.LinearGeneral(
        inputs,
        outputs,
        axis=tuple(range(-contracted, 0)),
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=kernel_init or nnx.initializers.xavier_uniform(),
        kernel_metadata={"out_sharding": axes},
        bias_metadata={"out_sharding": axes[contracted:]},
        rngs=rngs,
    )


def affine(
    x: Float[Array, "*rows inputs"],
    kernel: Float[Array, "inputs outputs"],
    bias: Float[Array, " outputs"] | nnx.Param | None,
) -> Float[Array, "*rows outputs"]:
    """Returns x @ kernel + bias in the dtype of x."""
    out = jnp.matmul(x, kernel.astype(x.dtype))
    if bias is None:
        return out
    return out + bias[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + bias.shape)


def through_heads(
    layer: nnx.LinearGeneral, x: Float[Array, "batch n *inputs"], *axes: str | None
) -> Float[Array, "batch n *outputs"]:
    """Returns the result of a linear layer to or from heads.

    If no mesh splits the heads, it is computed as a product of matrices. XLA for TPUs would give
    the result of a product with more axes another layout than the attention kernel's, and copy it.

    Args:
      layer: a layer with heads as axes of its inputs or outputs.
      x: its input.
      *axes: logical axes of the result, which is constrained by them.
    """
    if axis_size("heads") > 1:
        return constrain(layer(x), *axes)
    inputs, rows = math.prod(layer.in_features), x.shape[:2]
    bias = None if layer.bias is None else layer.bias[...].reshape(-1)
    out = affine(x.reshape(*rows, inputs), layer.kernel[...].reshape(inputs, -1), bias)
    return constrain(out, "batch", None, None).reshape(*rows, *layer.out_features)
