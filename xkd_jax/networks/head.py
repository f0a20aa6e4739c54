"""The projection head of student and teacher."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xkd_jax.config.architecture import HeadConfig
from xkd_jax.networks.gelu import gelu
from xkd_jax.networks.layer_norm import LAYER_NORM_EPS, layer_norm
from xkd_jax.networks.linear import linear


class Head(nnx.Module):
    """MLP, bottleneck of unit length, weight-normalized output layer, LayerNorm without affine.

    As in the released code, all hidden layers share one LayerNorm, and the output layer's gain is
    1.
    """

    def __init__(self, width: int, config: HeadConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        sizes = [width, *[config.hidden] * (config.layers - 1), config.bottleneck]
        axes = ["embed", *["mlp"] * (config.layers - 1), "bottleneck"]
        names = [
            # square hidden layers are split along their output only
            (None if i and a == "mlp" and b == "mlp" else a, b)
            for i, (a, b) in enumerate(itertools.pairwise(axes))
        ]
        init = nnx.initializers.normal(0.02)
        self.linears = nnx.List(
            [
                linear(a, b, name, dtype, rngs, kernel_init=init)
                for (a, b), name in zip(itertools.pairwise(sizes), names, strict=True)
            ]
        )
        self.norm = layer_norm(config.hidden, dtype, rngs)
        # PyTorch's default for a linear layer: uniform within 1 / sqrt(fan in)
        self.directions = nnx.Param(
            nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")(
                rngs.params(), (config.bottleneck, config.outputs)
            ),
            out_sharding=("bottleneck", "outputs"),
        )
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows outputs"]:
        """Maps pooled features to float32 outputs of mean 0 and variance 1."""
        *hidden, last = self.linears
        for layer in hidden:
            x = gelu(self.norm(layer(x)))
        x = last(x).astype(jnp.float32)
        x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        directions = self.directions[...]
        weight = directions / jnp.linalg.norm(directions, axis=0, keepdims=True)
        logits = jnp.matmul(
            x.astype(self.dtype), weight.astype(self.dtype), preferred_element_type=jnp.float32
        )
        centered = logits - logits.mean(-1, keepdims=True)
        variance = jnp.square(centered).mean(-1, keepdims=True)
        return centered * jax.lax.rsqrt(variance + LAYER_NORM_EPS)
